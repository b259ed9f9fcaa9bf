"""Pretrained weights to start from: found, renamed, fitted, counted."""
