"""Training: schedule, optimizer, loop, checkpoints, tracking."""
