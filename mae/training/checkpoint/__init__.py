"""Run folders and checkpoints: written, found, read back, resumed from."""
