"""Runs rewards in killable processes."""
