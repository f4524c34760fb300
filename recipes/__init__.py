"""Recipes that ship with the package: `sail-rl recipes` lists them."""
