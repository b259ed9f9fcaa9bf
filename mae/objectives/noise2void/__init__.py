"""Denoising from noisy images alone (Krull et al. 2019; Batson and Royer 2019), or from pairs."""
