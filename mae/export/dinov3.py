"""Export for transformers' `DINOv3ViTModel`, of encoders that are DINOv3's architecture."""

import re
from pathlib import Path
from typing import Any

from timm.layers import Mlp, SwiGLU
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from timm.models.eva import Eva, EvaAttention, EvaBlock
from torch import Tensor, nn

from mae.base.errors import UserError
from mae.export.check import Tensors
from mae.export.contract import (
    ExportFiles,
    ExportRequest,
    expected_features,
    weights,
)
from mae.export.huggingface import (
    hub_reading,
    load_complete,
    processed,
    refuse_unreadable,
    write_folder,
)
from mae.networks.encoders.plain import vit_shape

FILES = "`config.json` and `model.safetensors` are the encoder, a DINOv3ViTModel."
CODE = """\
{imports}from transformers import {classes}
{define}
encoder = DINOv3ViTModel.from_pretrained("FOLDER").eval()
{read}tokens = encoder(images).last_hidden_state
"""

NAMES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^cls_token$", "embeddings.cls_token"),
        (r"^reg_token$", "embeddings.register_tokens"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
        (r"^blocks\.", "layer."),
        (r"\.gamma_([12])$", r".layer_scale\1.lambda1"),
        (r"\.attn\.proj\.", ".attention.o_proj."),
        (r"\.attn\.([qv])_bias$", r".attention.\1_proj.bias"),
        (r"\.mlp\.fc1_g\.", ".mlp.gate_proj."),
        (r"\.mlp\.(?:fc1|fc1_x)\.", ".mlp.up_proj."),
        (r"\.mlp\.fc2\.", ".mlp.down_proj."),
    )
]
"""names in timm → names on the hub, which every version of transformers reads"""


def write_dinov3(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write the encoder as a DINOv3ViTModel; decoders have no place there.

    Raises UserError for other architectures with rotary positions, without transformers, and for
    images of more than 8 bits.
    """
    vit = request.encoder
    assert isinstance(vit, Eva)
    refuse_beyond_dinov3(vit)
    refuse_unreadable(request.config.data)
    tensors = dinov3_names(weights(vit), vit)
    reading = hub_reading(request, images)
    write_folder(folder, tensors, dinov3_config(vit), reading.processor)
    tokens = expected_features(request, reading.inputs["images"])["tokens"]
    decoder = ["--format hf: DINOv3ViTModel has no place for the decoder: without it"]
    return ExportFiles(
        inputs=reading.inputs,
        expected={"tokens": tokens} | reading.expected,
        tolerance=1e-5,
        reader="transformers",
        files=FILES + reading.files,
        code=CODE.format(**reading.code._asdict(), classes=reading.classes("DINOv3ViTModel")),
        loader=load_dinov3,
        library="transformers",
        remarks=decoder if request.decoder else [],
    )


def load_dinov3(folder: Path, inputs: Tensors, settings: dict[str, str]) -> Tensors:
    """Tokens and normalised pixels through transformers."""
    from transformers import DINOv3ViTModel

    model = load_complete(DINOv3ViTModel, folder)
    found = {"tokens": model(inputs["images"]).last_hidden_state}
    if "pixels" in inputs:
        found["pixel_values"] = processed(folder, inputs["pixels"])
    return found


def refuse_beyond_dinov3(vit: Eva) -> None:
    """Raise UserError, naming the parts, for an encoder that DINOv3ViTModel does not compute."""
    names, rope = vit.state_dict(), vit.rope
    blocks: list[Any] = list(vit.blocks)
    mlps = [block.mlp for block in blocks]
    attentions = [block.attn for block in blocks]
    norms = [part for part in vit.modules() if isinstance(part, nn.LayerNorm)]
    is_dinov3 = isinstance(rope, RotaryEmbeddingDinoV3) and (
        rope.rotate_half
        and rope.grid_indexing == "ij"
        and not rope.grid_offset
        and rope.normalize_coords == "separate"
        and rope.min_period is None
    )
    unsupported = {
        "other rotations than DINOv3's": not is_dinov3,
        "absolute positions": vit.pos_embed is not None,
        "no class token": vit.cls_token is None,
        "no layer scale": "blocks.0.gamma_1" not in names or "blocks.0.gamma_2" not in names,
        "a norm before the blocks": not isinstance(vit.norm_pre, nn.Identity),
        "no final norm": not isinstance(vit.norm, nn.LayerNorm),
        "blocks of another kind": any(type(block) is not EvaBlock for block in blocks),
        "another attention": any(
            type(one) is not EvaAttention
            or one.qkv is None
            or one.gate is not None
            or one.head_dim * one.num_heads != vit.embed_dim
            for one in attentions
        ),
        "normalised queries, keys or attention": any(".attn." in n and "norm." in n for n in names),
        "another MLP": any(type(mlp) not in (Mlp, SwiGLU) for mlp in mlps),
        "a norm in the MLP": any(".mlp.norm." in name for name in names),
        "another activation": any(
            not isinstance(mlp.act, nn.GELU if type(mlp) is Mlp else nn.SiLU) for mlp in mlps
        ),
        "norms of different epsilons": len({norm.eps for norm in norms}) != 1,
        "patches that are not square": len(set(vit_shape(vit, True).patch_size)) > 1,
    }
    if reasons := [reason for reason, applies in unsupported.items() if applies]:
        raise UserError(
            f"--format hf: DINOv3ViTModel, transformers' only encoder of this class, has no place "
            f"for {', '.join(reasons)}; --format timm has"
        )


def dinov3_names(tensors: dict[str, Tensor], vit: Eva) -> dict[str, Tensor]:
    """Rename the tensors of an encoder for the hub, with qkv split in three."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = name
        for pattern, replacement in NAMES:
            found = pattern.sub(replacement, found)
        if ".attn.qkv." in found:
            for letter, chunk in zip("qkv", tensor.chunk(3), strict=True):
                part = found.replace(".attn.qkv.", f".attention.{letter}_proj.")
                renamed[part] = chunk.clone()
        else:
            renamed[found] = tensor
    width = vit.embed_dim
    renamed.setdefault("embeddings.register_tokens", tensors["cls_token"].new_zeros(1, 0, width))
    renamed["embeddings.mask_token"] = tensors["cls_token"].new_zeros(1, 1, width)
    return renamed


def dinov3_config(vit: Eva) -> dict[str, Any]:
    """Contents of config.json."""
    shape = vit_shape(vit, has_class_token=True)
    block: Any = vit.blocks[0]
    rope: Any = vit.rope
    is_gated = isinstance(block.mlp, SwiGLU)
    height, width = shape.img_size
    has_bias = block.attn.q_bias is not None
    return {
        "architectures": ["DINOv3ViTModel"],
        "model_type": "dinov3_vit",
        "hidden_size": shape.embed_dim,
        "num_hidden_layers": len(vit.blocks),
        "num_attention_heads": shape.num_heads,
        "intermediate_size": block.mlp.fc2.in_features,
        "hidden_act": "silu" if is_gated else "gelu",
        "use_gated_mlp": is_gated,
        "layer_norm_eps": block.norm1.eps,
        "query_bias": has_bias,
        "key_bias": False,
        "value_bias": has_bias,
        "num_register_tokens": shape.num_prefix_tokens - 1,
        "rope_theta": rope.temperature,
        "pos_embed_rescale": rope.rescale_coords,
        "pos_embed_shift": rope.shift_coords,
        "pos_embed_jitter": rope.jitter_coords,
        "image_size": height if height == width else [height, width],
        "patch_size": shape.patch_size[0],
        "num_channels": shape.in_chans,
        "dtype": "float32",
    }
