"""Combines several rewards into one total: a weighted sum, or an expression over them."""
