"""Cost of a Masked Autoencoder on paper: operations and memory of an image, without torch."""

from typing import NamedTuple


class Shape(NamedTuple):
    """Sizes that decide the cost of a Masked Autoencoder."""

    width: int
    """of the encoder"""
    depth: int
    """number of encoder blocks"""
    patches: int
    """patches of an image"""
    values: int
    """numbers in a patch: channels * patch_size²"""
    decoder_width: int
    decoder_depth: int
    mask_ratio: float = 0.75

    @property
    def visible(self) -> int:
        """Tokens that the encoder sees: visible patches and the class token."""
        return int(self.patches * (1 - self.mask_ratio)) + 1


def operations(shape: Shape) -> float:
    """Operations of forward and backward pass for one image; a multiply-add counts as two.

    Within a tenth of what `mae.training.flops.flops_per_image` counts.
    """
    width, narrow = shape.width, shape.decoder_width
    hidden = shape.patches - shape.visible + 1
    encoder = blocks(shape.visible, width, shape.depth) + shape.visible * shape.values * width
    # The last block of the decoder computes queries and MLP of hidden patches only.
    decoder = blocks(shape.patches + 1, narrow, shape.decoder_depth - 1)
    decoder += hidden * (10 * narrow**2 + 2 * shape.patches * narrow)
    decoder += 2 * shape.patches * narrow**2 + shape.visible * width * narrow
    decoder += hidden * narrow * shape.values
    return 6.0 * (encoder + decoder)


def blocks(tokens: int, width: int, depth: int) -> int:
    """Multiply-adds of transformer blocks in the forward pass."""
    return depth * tokens * (12 * width**2 + 2 * tokens * width)


def parameters(shape: Shape) -> int:
    """Number of parameters, roughly: those of the blocks."""
    return 12 * (shape.depth * shape.width**2 + shape.decoder_depth * shape.decoder_width**2)


def activation_bytes(shape: Shape, bytes_each: int) -> float:
    """Memory held for the backward pass of one image; `bytes_each`: 2 for bf16, 4 for fp32.

    A block holds about 17 numbers per token and channel, with attention by kernels that keep no
    square matrices; 67 MB were counted for ViT-S/16 with the paper's decoder in fp32.
    """
    own = shape.visible * shape.width * shape.depth
    decoders = (shape.patches + 1) * shape.decoder_width * shape.decoder_depth
    return 17.0 * bytes_each * (own + decoders)
