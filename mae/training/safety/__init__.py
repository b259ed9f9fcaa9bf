"""Guards of a run: skipped steps, loss spikes, bad samples, agreement of the processes."""
