"""Comparisons with other implementations, and scaling on paper: `python -m benchmarks.NAME`."""
