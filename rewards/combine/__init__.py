"""Several rewards as one: the weighted sum or the expression over them."""
