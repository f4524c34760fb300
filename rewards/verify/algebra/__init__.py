"""Reads answers with the parser of math-verify, and compares them as sympy objects at random points."""
