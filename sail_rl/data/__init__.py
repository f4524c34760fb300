"""Data: rows of a file, their order, token sequences, packing."""
