"""The encoder as a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`."""

import json
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from mae.config import Config
from mae.export.card import model_card
from mae.folders import new_folder
from mae.models.mae import MaskedAutoencoder
from mae.training.checkpoint import Position

DECODER_FILE = "decoder.safetensors"


def export_timm(config: Config, model: MaskedAutoencoder, position: Position, out: Path) -> None:
    """Write `out`: config.json, model.safetensors, decoder.safetensors, README.md (model card).

    Before `out` appears, timm itself loads what was written, and its features of test images
    must equal ours to the last bit.  Raises UserError where `out` is not empty or not writable.
    """
    with new_folder(out) as part:
        save_file(_tensors(model.encoder), part / "model.safetensors", {"format": "pt"})
        # In a file of its own: timm takes a state dict with a mask token for DINOv2's.
        save_file(_tensors(model.decoder), part / DECODER_FILE, {"format": "pt"})
        (part / "config.json").write_text(json.dumps(timm_config(config, model), indent=2) + "\n")
        (part / "README.md").write_text(model_card(config, model, position))
        try:
            verify_timm(part, model)
        except AssertionError as error:
            raise RuntimeError(f"{out}: not written: timm computes something else") from error


def timm_config(config: Config, model: MaskedAutoencoder) -> dict:
    """The hub format of timm: architecture, arguments, preprocessing."""
    encoder = model.encoder
    channels = encoder.patch_embed.proj.in_channels
    pool = "token" if encoder.has_class_token else "avg"
    arguments = {
        **config.model.encoder_kwargs,
        "img_size": list(model.img_size),
        "patch_size": model.patch_size[0],
        "in_chans": channels,
        "global_pool": pool,
        # The final norm stays on the tokens whatever the pooling; see `build_encoder`.
        "fc_norm": False,
    }
    return {
        "architecture": config.model.encoder.split(".")[0],
        "num_classes": 0,
        "num_features": encoder.embed_dim,
        "global_pool": pool,
        "model_args": arguments,
        "pretrained_cfg": {
            "tag": "mae",
            "custom_load": False,
            "input_size": [channels, *model.img_size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": config.data.crop_pct,
            "crop_mode": "center",
            "mean": list(config.data.mean),
            "std": list(config.data.std),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


@torch.no_grad()
def verify_timm(folder: Path, model: MaskedAutoencoder) -> None:
    """Raise AssertionError unless timm's model from `folder` computes what ours does."""
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert isinstance(theirs, VisionTransformer)
    ours, loaded = model.encoder.state_dict(), theirs.state_dict()
    assert ours.keys() == loaded.keys(), f"keys differ: {sorted(ours.keys() ^ loaded.keys())}"
    generator = torch.Generator().manual_seed(0)
    shape = (2, model.encoder.patch_embed.proj.in_channels, *model.img_size)
    images = torch.randn(shape, generator=generator)
    tokens = theirs.forward_features(images)
    assert torch.equal(tokens, model.encoder.cpu().eval().forward_features(images))
    expected = tokens[:, 0] if theirs.has_class_token else tokens.mean(dim=1)
    torch.testing.assert_close(theirs(images), expected)


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()
    }
