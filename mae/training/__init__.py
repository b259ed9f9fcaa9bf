"""Training of any objective: schedule, optimizer, loop, checkpoints, tracking."""
