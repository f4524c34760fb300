"""Rewards: one a file, a parser that all share, killable verification, composition. Nothing here imports torch."""
