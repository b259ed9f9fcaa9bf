"""Export for transformers' `HieraModel` and `HieraForImageClassification`, of timm's Hiera."""

from pathlib import Path
from typing import Any

import torch
from timm.models.hiera import Hiera, HieraBlock
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
from mae.networks.encoders.hiera_blocks import TIMM, differing, timm_blocks, transformers_blocks
from mae.networks.encoders.hiera_names import stage_depths
from mae.networks.encoders.registry import adapter_of
from mae.pretrained_weights.description import mlp_ratio

FILES = "`config.json` and `model.safetensors` are the encoder, a HieraModel."
CODE = """\
{imports}from transformers import {classes}
{define}
encoder = HieraModel.from_pretrained("FOLDER").eval()
{read}outputs = encoder(images, output_hidden_states=True)
vector = outputs.pooler_output
maps = outputs.reshaped_hidden_states[1:]  # by rows, channels last, coarser from stage to stage
"""
SUMMED = (
    "--format hf: HieraModel has one table of positions: those of image and windows are written as "
    "their sum, for images of {} x {} px"
)

NAMES = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "head.norm": "pooler.layernorm",
}
"""names of modules in timm → on the hub; the others are the same"""


def write_hiera(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write the encoder as a HieraModel, without the decoder.

    Raises UserError for options of timm's that it does not have, without transformers, and for
    images of more than 8 bits.
    """
    encoder = request.encoder
    assert isinstance(encoder, Hiera)
    config = hiera_config(encoder)
    refuse_unreadable(request.config.data)
    reading = hub_reading(request, images)
    described = config | {"architectures": ["HieraModel"]}
    write_folder(folder, hiera_tensors(encoder), described, reading.processor)
    expected = expected_features(request, reading.inputs["images"])
    by_rows = encoder.reroll(expected["tokens"], len(encoder.blocks) - 1)
    decoder = ["--format hf: the decoder is not written: HieraModel is the encoder"]
    return ExportFiles(
        inputs=reading.inputs,
        expected=expected | {"map": by_rows} | reading.expected,
        tolerance=1e-5,
        reader="transformers",
        files=FILES + reading.files,
        code=CODE.format(**reading.code._asdict(), classes=reading.classes("HieraModel")),
        loader=load_hiera,
        library="transformers",
        remarks=[*position_remarks(encoder), *(decoder if request.decoder else [])],
    )


def load_hiera(folder: Path, inputs: Tensors, settings: dict[str, str]) -> Tensors:
    """Tokens, their map, vectors and normalised pixels through transformers."""
    from transformers import HieraModel

    outputs = load_complete(HieraModel, folder)(inputs["images"], output_hidden_states=True)
    found = {
        "tokens": outputs.last_hidden_state,
        "pooled": outputs.pooler_output,
        "map": outputs.reshaped_hidden_states[-1],
    }
    if "pixels" in inputs:
        found["pixel_values"] = processed(folder, inputs["pixels"])
    return found


def position_remarks(encoder: Hiera) -> list[str]:
    """Line for the user where two tables of positions become one; else none."""
    if encoder.pos_embed_win is None:
        return []
    return [SUMMED.format(*adapter_of(encoder).shape(encoder).img_size)]


@torch.no_grad()
def hiera_tensors(encoder: Hiera) -> dict[str, Tensor]:
    """Weights of an encoder under transformers' names, without those of a classifier."""
    places: list[str] = []
    for stage, depth in enumerate(stage_depths(encoder)):
        places += [f"encoder.stages.{stage}.layers.{layer}" for layer in range(depth)]
    found = {}
    for name, tensor in weights(encoder).items():
        if name.startswith(("pos_embed", "head.fc.")):
            continue
        module, _, kind = name.rpartition(".")
        place = ""
        if module.startswith("blocks."):
            _, number, module = module.split(".", 2)
            place = places[int(number)] + "."
        found[f"{place}{NAMES.get(module, module)}.{kind}"] = tensor
    assert encoder.pos_embed is not None
    positions = encoder.pos_embed
    if encoder.pos_embed_win is not None:
        rows, columns = encoder.tokens_spatial_shape
        positions = encoder._pos_embed(positions.new_zeros(1, rows * columns, positions.shape[1]))
    found["embeddings.position_embeddings"] = positions.detach().cpu().contiguous()
    return found


def hiera_config(encoder: Hiera) -> dict[str, Any]:
    """Contents of config.json, without the name of the class.

    Raises UserError, naming the options, for an encoder that HieraModel does not compute.
    """
    shape, projection = adapter_of(encoder).shape(encoder), encoder.patch_embed.proj
    assert isinstance(projection, nn.Conv2d)
    blocks, depths = timm_blocks(encoder), stage_depths(encoder)
    begins = [sum(depths[:stage]) for stage in range(len(depths))]
    widths = [blocks[begin].width for begin in begins]
    first: Any = encoder.blocks[0]
    config = {
        "model_type": "hiera",
        "embed_dim": widths[0],
        "embed_dim_multiplier": widths[1] / widths[0],
        "image_size": list(shape.img_size),
        "num_channels": encoder.in_chans,
        "patch_size": list(projection.kernel_size),
        "patch_stride": list(projection.stride),
        "patch_padding": list(projection.padding),
        # Rounded down in each block: the largest of the least ratios.
        "mlp_ratio": max(mlp_ratio(block.hidden, block.width) for block in blocks),
        "depths": depths,
        "num_heads": [blocks[begin].heads for begin in begins],
        "num_query_pool": encoder.q_pool,
        "query_stride": list(encoder.q_stride),
        "masked_unit_size": list(encoder.mask_unit_size),
        "masked_unit_attention": stage_windows(encoder),
        "hidden_act": "gelu",
        "layer_norm_eps": getattr(first.norm1, "eps", 0.0),
        "drop_path_rate": 0.0,
        "dtype": "float32",
    }
    refuse_beyond_transformers(encoder, config)
    return config


def stage_windows(encoder: Hiera) -> list[bool]:
    """Stages with attention within mask units, which timm applies from their second block on.

    A stage of one block has it in the first block of the next; of a last one of one block, which
    has no next, none.
    """
    blocks = timm_blocks(encoder)
    seconds = [sum(stage_depths(encoder)[:stage]) + 1 for stage in range(len(encoder.stage_ends))]
    return [second < len(blocks) and blocks[second].window > 0 for second in seconds]


def refuse_beyond_transformers(encoder: Hiera, config: dict[str, Any]) -> None:
    """Raise UserError, naming the options, where HieraModel computes something else."""
    blocks: list[Any] = list(encoder.blocks)
    norms = [encoder.head.norm, *(norm for block in blocks for norm in (block.norm1, block.norm2))]
    projected = [block.proj is not None for block in blocks if block.do_expand]
    unsupported = {
        "other blocks": any(type(block) is not HieraBlock for block in blocks),
        "stages that widen without a projection (use_expand_proj=false)": not all(projected),
        "layer scale (init_values)": any(not isinstance(b.ls1, nn.Identity) for b in blocks),
        "another activation than GELU": any(
            not isinstance(block.mlp.act, nn.GELU) or block.mlp.act.approximate != "none"
            for block in blocks
        ),
        "other norms, or of different epsilons (norm_layer)": any(
            not isinstance(norm, nn.LayerNorm) or norm.eps != config["layer_norm_eps"]
            for norm in norms
        ),
    }
    reasons = [reason for reason, applies in unsupported.items() if applies]
    others = differing(timm_blocks(encoder), transformers_blocks(config), TIMM)
    if others:
        reasons.append(f"this {', '.join(others)}")
    if reasons:
        raise UserError(
            f"--format hf: HieraModel, transformers' only encoder of this class, has no place for "
            f"{', '.join(reasons)}; --format timm has"
        )
