"""Run folders and checkpoints: writing, finding, loading, resuming."""
