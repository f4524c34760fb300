"""Verifiers, one module for each kind of answer: `check` a gold answer, and `score` a given answer against it."""
