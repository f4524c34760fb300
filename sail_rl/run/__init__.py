"""A run: its folder, its stages in order, what it records."""
