"""Latents of images as data of their own, for other models to be trained on."""
