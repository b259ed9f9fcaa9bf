"""The image files that a sample may be, by extension."""

EXTENSIONS = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "npy")
