"""Evaluation of pretrained encoders and classifiers: features, probes, health, diagnosis."""
