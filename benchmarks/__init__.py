"""Comparisons with other implementations, checks of our own claims, scaling on paper.

Run as `python -m benchmarks.NAME` in a clone of the repository.
"""
