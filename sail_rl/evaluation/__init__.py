"""Held-out evaluation, sampling, and trying rewards on stored completions."""
