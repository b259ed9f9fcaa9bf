"""Files of weights in the layout of the paper's release, and the models that they come from.

The pretrained ones come from transformers' ViTMAE, the fine-tuned ones from timm: neither is ours.
"""

import argparse
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from mae.networks.initial_weights import sincos_positions
from tests.pretrained_weights.models import shaken

WIDTH, DEPTH, HEADS, SIDE, PATCH = 192, 2, 3, 32, 8
DECODER_WIDTH, DECODER_HEADS = 512, 16
PATCHES = (SIDE // PATCH) ** 2
CLASSES = 3

HUB_NAMES = {
    "vit.embeddings.cls_token": "cls_token",
    "vit.embeddings.position_embeddings": "pos_embed",
    "vit.embeddings.patch_embeddings.projection": "patch_embed.proj",
    "vit.layernorm": "norm",
    "decoder.mask_token": "mask_token",
    "decoder.decoder_pos_embed": "decoder_pos_embed",
    "decoder.decoder_embed": "decoder_embed",
    "decoder.decoder_norm": "decoder_norm",
    "decoder.decoder_pred": "decoder_pred",
}
"""name in transformers → name in the release, outside the blocks"""
QKV = tuple(
    (f"attention.{new}_proj", f"attention.attention.{old}")
    for new, old in (("q", "query"), ("k", "key"), ("v", "value"))
)
BLOCK = {
    "attn.proj": ("attention.o_proj", "attention.output.dense"),
    "norm1": ("layernorm_before",),
    "norm2": ("layernorm_after",),
    "mlp.fc1": ("mlp.fc1", "intermediate.dense"),
    "mlp.fc2": ("mlp.fc2", "output.dense"),
}
"""name in the release → names in a block of transformers"""


def vitmae(norm_pix_loss: bool = True, width: int = WIDTH, heads: int = HEADS) -> Any:
    """Small ViTMAE of transformers with random numbers in all weights."""
    config = ViTMAEConfig(
        hidden_size=width,
        num_hidden_layers=DEPTH,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        image_size=SIDE,
        patch_size=PATCH,
        layer_norm_eps=1e-6,
        decoder_hidden_size=DECODER_WIDTH,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=DECODER_HEADS,
        decoder_intermediate_size=4 * DECODER_WIDTH,
        norm_pix_loss=norm_pix_loss,
    )
    torch.manual_seed(0)
    model = shaken(ViTMAEForPreTraining(config).eval(), 1)
    with torch.no_grad():
        positions = sincos_positions(DECODER_WIDTH, (SIDE // PATCH, SIDE // PATCH), 1)
        model.decoder.decoder_pos_embed.copy_(positions)
    return model


def official_names(model: nn.Module) -> dict[str, Tensor]:
    """State dict of a ViTMAE of transformers under the names of the release."""
    tensors: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if type(module).__name__ == "ViTMAELayer":
            start = "decoder_blocks" if name.startswith("decoder") else "blocks"
            tensors |= _block(module, f"{start}.{name.rpartition('.')[2]}")
    for key, tensor in model.state_dict().items():
        for theirs, ours in HUB_NAMES.items():
            if key == theirs or key.startswith(f"{theirs}."):
                tensors[ours + key.removeprefix(theirs)] = tensor.clone()
    assert sum(t.numel() for t in tensors.values()) == sum(p.numel() for p in model.parameters())
    return tensors


def _block(layer: nn.Module, name: str) -> dict[str, Tensor]:
    """Tensors of one block; transformers names its parts by version."""
    modules: dict[str, Any] = dict(layer.named_modules())

    def part(names: tuple[str, ...]) -> Any:
        return next(modules[one] for one in names if one in modules)

    found: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        three = [getattr(part(names), kind).detach() for names in QKV]
        found[f"{name}.attn.qkv.{kind}"] = torch.cat(three)
        for ours, names in BLOCK.items():
            found[f"{name}.{ours}.{kind}"] = getattr(part(names), kind).detach().clone()
    return found


def fine_tuned(pool: str, classes: int = CLASSES) -> VisionTransformer:
    """Classifier of timm, whose names are those of released fine-tuned models."""
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=SIDE,
        patch_size=PATCH,
        depth=DEPTH,
        num_classes=classes,
        global_pool=pool,
    )
    assert isinstance(model, VisionTransformer)
    return shaken(model.eval(), 2)


def write_release(path: Path, tensors: dict[str, Tensor], **arguments: Any) -> Path:
    """Training checkpoint as the release writes it, with its command line; returns `path`."""
    args = argparse.Namespace(model="mae_vit", blr=1e-3, output_dir=Path("/out"), **arguments)
    content = {"model": tensors, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]}}
    torch.save({**content, "epoch": 799, "scaler": {"scale": 65536.0}, "args": args}, path)
    return path
