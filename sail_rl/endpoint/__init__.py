"""Asking a model behind an OpenAI-compatible endpoint: limits, retries, cache."""
