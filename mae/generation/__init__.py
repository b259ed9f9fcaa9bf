"""Generation and editing of images through latents, and their judgement against real images."""
