"""Weights to start from: found, renamed, fitted, counted."""
