"""Reward functions that recipes name, and the machinery that combines and runs them. Nothing here imports torch."""
