"""Sizes of the published Vision Transformers, and the size of an encoder by its settings.

Without torch, which rules of settings do without.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class PublishedVit(NamedTuple):
    """Published Vision Transformer."""

    name: str
    """name in timm"""
    width: int
    depth: int
    heads: int


PUBLISHED = {
    "tiny": PublishedVit("vit_tiny_patch16_224", 192, 12, 3),
    "small": PublishedVit("vit_small_patch16_224", 384, 12, 6),
    "base": PublishedVit("vit_base_patch16_224", 768, 12, 12),
    "large": PublishedVit("vit_large_patch16_224", 1024, 24, 16),
    "huge": PublishedVit("vit_huge_patch14_224", 1280, 32, 16),
}
"""by the word in timm's name"""
LARGER = {
    "so400m": (1152, 27),
    "giant": (1408, 40),
    "giantopt": (1536, 40),
    "gigantic": (1664, 48),
    "enormous": (1792, 64),
    "7b": (4096, 40),
}
"""word in timm's name of others, which go by "huge" → width and depth, of most of its kind"""
KNOWN = {word: (word, one.width, one.depth) for word, one in PUBLISHED.items()} | {
    word: ("huge", *one) for word, one in LARGER.items()
}
"""word in timm's name → word that it goes by, width and depth"""
HIERA = {
    "tiny": (96, (1, 2, 7, 2)),
    "small": (96, (1, 2, 11, 2)),
    "base": (96, (2, 3, 16, 3)),
    "base_plus": (112, (2, 3, 16, 3)),
    "large": (144, (2, 6, 36, 4)),
    "huge": (256, (2, 6, 36, 4)),
}
"""word in timm's name of a Hiera → first width, blocks of each stage"""


class VitSize(NamedTuple):
    """Size of an encoder."""

    word: str
    """the published one that its name goes by, a key of PUBLISHED"""
    width: int
    depth: int


def vit_size(encoder: str, encoder_kwargs: Mapping[str, Any]) -> VitSize:
    """Size by the arguments `embed_dim` and `depth`, else the word in timm's name, else ViT-B's.

    Of a Hiera its blocks in all, and its last width: each stage doubles it.
    """
    if encoder.startswith("hiera_"):
        return _hiera_size(encoder, encoder_kwargs)
    found = next((word for word in KNOWN if f"_{word}_" in encoder), "base")
    word, own_width, own_depth = KNOWN[found]
    width, depth = encoder_kwargs.get("embed_dim"), encoder_kwargs.get("depth")
    return VitSize(
        word,
        width if isinstance(width, int) else own_width,
        depth if isinstance(depth, int) else own_depth,
    )


def _hiera_size(encoder: str, encoder_kwargs: Mapping[str, Any]) -> VitSize:
    words = [word for word in HIERA if f"_{word}_" in encoder]
    first, blocks = HIERA[max(words, key=len, default="base")]
    width, stages = encoder_kwargs.get("embed_dim"), encoder_kwargs.get("stages")
    if isinstance(stages, list | tuple) and stages and all(isinstance(n, int) for n in stages):
        blocks = tuple(stages)
    first = width if isinstance(width, int) else first
    published = next((word for word in words if word in PUBLISHED), "base")
    return VitSize(published, first * 2 ** (len(blocks) - 1), sum(blocks))
