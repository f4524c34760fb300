"""Rollout engines and the vLLM model plugin: the only code that imports vLLM."""
