"""A run: checks, stages, evaluation."""
