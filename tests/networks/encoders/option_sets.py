"""One name of timm's for each class of encoders and set of options, and tiny sizes for it."""

from typing import Any

PLAIN: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {},
    "vit_intern300m_patch14_448": {},  # of any size in timm, of one here
}
"""name of a VisionTransformer → arguments that its tiny instance needs"""
ROPE: dict[str, dict[str, Any]] = {
    "eva02_base_patch14_224": {},  # unfused qkv, norm in the SwiGLU, axial, class token
    "eva02_base_patch16_clip_224": {},  # norm in the attention, too
    "eva02_enormous_patch14_clip_224": {},  # norms behind, no rotations
    "eva02_small_patch14_224": {},  # packed SwiGLU
    "eva_giant_patch14_224": {},  # absolute positions only
    "vit_base_patch16_sapiens2": {"num_kv_heads": 1},  # RMS norms, q/k norm, grouped queries
    "vit_small_patch16_dinov3": {},
    "vit_small_patch16_dinov3_qkvb": {},
    "vit_small_plus_patch16_dinov3_qkvb": {},  # aligned SwiGLU
    "vit_small_patch16_rope_224": {},
    "vit_small_patch16_rope_ape_224": {},  # absolute positions, none of the class token
    "vit_small_patch16_rope_mixed_224": {},
    "vit_small_patch16_rope_mixed_ape_224": {},
    "vit_base_patch16_rope_reg1_gap_256": {},  # a register, no class token
    "vit_mediumd_patch16_rope_reg1_gap_256": {},  # without bias of qkv
    "vit_pe_core_tiny_patch16_384": {},  # attention pooling, norm before the blocks, grid from 1
    "vit_pe_core_gigantic_patch14_448": {},  # neither class token nor register
    "vit_pe_lang_large_patch14_448": {},  # layer scale, no final norm
    "vit_pe_spatial_tiny_patch16_512": {},
}
"""name of an Eva → arguments that its tiny instance needs"""
HIERA: dict[str, dict[str, Any]] = {
    "hiera_tiny_224": {},  # a position for each token
    "hiera_small_abswin_256": {"global_pos_size": [3, 5]},  # of image and window; no projection
}
"""name of a Hiera → arguments that its tiny instance needs"""
SETS = PLAIN | ROPE | HIERA

FEW = (
    "hiera_tiny_224",
    "hiera_small_abswin_256",
    "vit_small_patch16_dinov3_qkvb",
    "vit_small_patch16_rope_mixed_ape_224",
    "eva02_base_patch16_clip_224",
    "vit_base_patch16_rope_reg1_gap_256",
    "vit_pe_lang_large_patch14_448",
)
"""names that differ in all that the tests of what uses encoders depend on"""

TINY: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2}
"""model.encoder_kwargs of a tiny instance"""
TINY_STAGES: dict[str, Any] = {
    "embed_dim": 16,
    "stages": [1, 1],
    "num_heads": 1,
    "mask_unit_attn": [False, False],
}
"""those of one with stages: as many blocks, as wide at its end"""


def tiny_arguments(name: str) -> dict[str, Any]:
    """model.encoder_kwargs of the tiny instance of a name in `SETS`."""
    return (TINY_STAGES if name in HIERA else TINY) | SETS[name]
