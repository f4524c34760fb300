"""Reads the records of finished and running runs: curves, reports, comparisons and the doctor."""
