"""Calling rewards in processes that can be killed."""
