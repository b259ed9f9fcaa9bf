"""Latents of sparse autoencoders, one by one: where they fire, in which images, of which class."""
