"""Loaders of exported Masked Autoencoders, for checks in a fresh process without our models.

Each is an `export.contract.Loader`: (folder, inputs, settings) → computed tensors.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from mae.export.huggingface import load_complete, processed
from mae.export.original import read_tensors

Tensors = dict[str, Tensor]


def load_original(folder: Path, inputs: Tensors, settings: dict[str, str]) -> Tensors:
    """Compute features and predictions from mae.pth with timm's blocks, as the paper describes.

    Raises ValueError where mae.pth and mae.safetensors differ.
    """
    import timm
    from timm.models.vision_transformer import Block, VisionTransformer

    weights = read_tensors(folder)
    timm_model = json.loads(settings["architecture"])
    vit = timm.create_model(
        timm_model["architecture"], num_classes=0, **timm_model["model_args"]
    ).eval()
    encoder = {
        k: v for k, v in weights.items() if not k.startswith("decoder_") and k != "mask_token"
    }
    vit.load_state_dict(encoder, strict=True)
    assert isinstance(vit, VisionTransformer)
    images = inputs["images"]
    tokens = vit.forward_features(images)
    found = {"tokens": tokens, "pooled": _pooled(tokens, settings)}
    if "noise" not in inputs:
        return found

    assert vit.pos_embed is not None and vit.cls_token is not None
    position = weights["decoder_pos_embed"]
    width, ids = position.shape[-1], inputs["noise"].argsort(dim=1)
    ids_keep = ids[:, : ids.shape[1] - inputs["ids_masked"].shape[1]]
    x = vit.patch_embed(images) + vit.pos_embed[:, 1:]
    x = x.gather(1, ids_keep[:, :, None].expand(-1, -1, x.shape[-1]))
    x = torch.cat([(vit.cls_token + vit.pos_embed[:, :1]).expand(len(x), -1, -1), x], dim=1)
    latent = vit.norm(vit.blocks(x))
    linear, norm = torch.nn.functional.linear, torch.nn.functional.layer_norm

    def parts(name: str) -> tuple[Tensor, Tensor]:
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    y = linear(latent, *parts("decoder_embed"))
    patches = weights["mask_token"].repeat(len(y), ids.shape[1], 1)
    patches.scatter_(1, ids_keep[:, :, None].expand(-1, -1, width), y[:, 1:])
    y = torch.cat([y[:, :1], patches], dim=1) + position
    depth = len({name.split(".")[1] for name in weights if name.startswith("decoder_blocks.")})
    for number in range(depth):
        block = Block(width, int(settings["decoder_num_heads"]), qkv_bias=True).eval()
        start = f"decoder_blocks.{number}."
        inside = {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
        block.load_state_dict(inside, strict=True)
        y = block(y)
    y = norm(y, (width,), *parts("decoder_norm"), eps=1e-6)
    return found | {"prediction": _hidden(linear(y, *parts("decoder_pred"))[:, 1:], inputs)}


def load_huggingface(folder: Path, inputs: Tensors, settings: dict[str, str]) -> Tensors:
    """Compute features, predictions and normalised pixels with transformers."""
    from transformers import ViTMAEForPreTraining, ViTModel

    encoder_folder = folder / "encoder" if "noise" in inputs else folder
    images = inputs["images"]
    encoder = load_complete(ViTModel, encoder_folder, add_pooling_layer=False)
    tokens = encoder(images).last_hidden_state
    found = {"tokens": tokens, "pooled": _pooled(tokens, settings)}
    if "pixels" in inputs:
        found["pixel_values"] = processed(folder, inputs["pixels"])
    if "noise" in inputs:
        full = load_complete(ViTMAEForPreTraining, folder)
        found["prediction"] = _hidden(full(images, noise=inputs["noise"]).logits, inputs)
    return found


def _hidden(patches: Tensor, inputs: Tensors) -> Tensor:
    """Predictions of the hidden patches."""
    return patches.gather(1, inputs["ids_masked"][:, :, None].expand(-1, -1, patches.shape[-1]))


def _pooled(tokens: Tensor, settings: dict[str, str]) -> Tensor:
    """Pooled vectors from tokens, as the model card describes."""
    prefix = int(settings["prefix"])
    return tokens[:, 0] if settings["pool"] == "token" else tokens[:, prefix:].mean(dim=1)
