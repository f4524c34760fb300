"""Curation: which rows are worth training on, and which completions. Pure functions over stored rollouts."""
