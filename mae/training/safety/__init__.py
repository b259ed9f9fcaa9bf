"""Safety of a run: skipped steps, loss spikes, bad samples, flags shared by the processes."""
