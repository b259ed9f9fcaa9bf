"""Sizes of encoders from which `mae pretrain auto` chooses, with the decoders that go with them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mae.networks.vit_sizes import PUBLISHED, vit_size
from mae.objectives.mae.cost import Shape

TINY = PUBLISHED["tiny"].name


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


SIZES = {
    "tiny": EncoderSize(*PUBLISHED["tiny"], 128, 1, 4, 1e-3, 1024),
    "small": EncoderSize(*PUBLISHED["small"], 512, 1, 16, 6e-4, 1024),
    "base": EncoderSize(*PUBLISHED["base"], 512, 8, 16, 6e-4, 4096),
    "large": EncoderSize(*PUBLISHED["large"], 512, 8, 16, 6e-4, 4096),
    "huge": EncoderSize(*PUBLISHED["huge"], 512, 8, 16, 6e-4, 4096),
}
"""by the word in timm's name"""
BASE, SMALL = SIZES["base"], SIZES["small"]
ON_CPU = (
    SIZES["tiny"]._replace(most=512),
    EncoderSize(TINY, 192, 6, 3, 96, 1, 3, 1.5e-3, 256),
    EncoderSize(TINY, 128, 4, 4, 64, 1, 2, 2e-3, 256),
    EncoderSize(TINY, 96, 4, 3, 64, 1, 2, 2e-3, 256),
)
"""sizes for CPUs, largest first"""


def size_of(given: Mapping[str, Any]) -> EncoderSize:
    """EncoderSize of an encoder that was given, by the word in its name and its arguments."""
    name = given.get("model.encoder", TINY)
    own = vit_size(name, given.get("model.encoder_kwargs") or {})
    known = SIZES[own.word]
    if own.width < known.width:
        known = known._replace(decoder_width=64, decoder_depth=1, decoder_heads=2, lr=2e-3)
    return known._replace(name=name, width=own.width, depth=own.depth)


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
