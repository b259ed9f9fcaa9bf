"""Optimizer, run folder, checkpoints, tracking."""
