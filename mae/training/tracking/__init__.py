"""Metrics of a run: progress line, metrics.jsonl, wandb, TensorBoard."""
