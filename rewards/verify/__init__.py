"""When an answer is right: one module for each kind of answer; `check` for gold answers, `score` for the given ones."""
