"""Shared parts of the autoencoders: settings, networks, corruptions, bottlenecks, measures."""
