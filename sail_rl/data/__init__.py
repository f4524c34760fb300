"""Data: rows of a file, their order, token sequences, packed rows."""
