"""Anomaly detection: detectors fitted to normal images, thresholds of known false-alarm rate."""
