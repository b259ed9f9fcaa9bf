"""Sizes of encoders from which `mae pretrain auto` chooses, with the decoders that go with them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mae.objectives.mae.cost import Shape

TINY = "vit_tiny_patch16_224"


class EncoderSize(NamedTuple):
    """Encoder, the decoder that goes with it, and how both are trained."""

    name: str
    """timm's name of the encoder"""
    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    lr: float
    """peak learning rate at a batch of 256; it goes with the square root of the batch"""
    most: int
    """largest batch"""


BASE = EncoderSize("vit_base_patch16_224", 768, 12, 12, 512, 8, 16, 6e-4, 4096)
SMALL = EncoderSize("vit_small_patch16_224", 384, 12, 6, 512, 1, 16, 6e-4, 1024)
SIZES = {
    "tiny": EncoderSize(TINY, 192, 12, 3, 128, 1, 4, 1e-3, 1024),
    "small": SMALL,
    "base": BASE,
    "large": EncoderSize("vit_large_patch16_224", 1024, 24, 16, 512, 8, 16, 6e-4, 4096),
    "huge": EncoderSize("vit_huge_patch14_224", 1280, 32, 16, 512, 8, 16, 6e-4, 4096),
}
"""by the word in timm's name"""
ON_CPU = (
    EncoderSize(TINY, 192, 12, 3, 128, 1, 4, 1e-3, 512),
    EncoderSize(TINY, 192, 6, 3, 96, 1, 3, 1.5e-3, 256),
    EncoderSize(TINY, 128, 4, 4, 64, 1, 2, 2e-3, 256),
    EncoderSize(TINY, 96, 4, 3, 64, 1, 2, 2e-3, 256),
)
"""sizes for CPUs, largest first"""


def size_of(given: Mapping[str, Any]) -> EncoderSize:
    """EncoderSize of an encoder that was given, by the word in its name and its arguments."""
    name = given.get("model.encoder", TINY)
    known = next((size for word, size in SIZES.items() if f"_{word}_" in name), BASE)
    kwargs = given.get("model.encoder_kwargs") or {}
    width = int(kwargs.get("embed_dim", known.width))
    if width < known.width:
        known = known._replace(decoder_width=64, decoder_depth=1, decoder_heads=2, lr=2e-3)
    return known._replace(name=name, width=width, depth=int(kwargs.get("depth", known.depth)))


def shape_of(size: EncoderSize, patches: int, values: int, given: Mapping[str, Any]) -> Shape:
    """Shape of the model whose cost is estimated, with the decoder that was given, if any."""
    return Shape(
        size.width,
        size.depth,
        patches,
        values,
        given.get("model.decoder_embed_dim", size.decoder_width),
        given.get("model.decoder_depth", size.decoder_depth),
        given.get("model.mask_ratio", 0.75),
    )
