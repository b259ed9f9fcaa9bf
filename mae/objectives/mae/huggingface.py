"""Export for transformers' `from_pretrained`: ViTMAEForPreTraining, and in encoder/ ViTModel.

Two folders, because a ViTMAEModel hides patches even in evaluation mode, and reading a ViTModel
from the folder of a ViTMAEForPreTraining warns that half of the tensors are unknown.
"""

import json
from pathlib import Path
from typing import Any

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor

from mae.base.errors import UserError
from mae.base.files import save_tensors
from mae.config.sections import Config
from mae.data.transform import choose_crop_pct
from mae.export.contract import (
    ExportFiles,
    ExportRequest,
    expected_features,
    refuse_options,
    weights,
)
from mae.export.reading import (
    ReadingCode,
    expected_photograph,
    is_picture,
    open_code,
    prepare_code,
)
from mae.objectives.mae.declaration import model_of
from mae.objectives.mae.export import (
    expect_prediction,
    loader_settings,
    mae_of,
    named_decoder,
    refuse_beyond_plain,
)
from mae.objectives.mae.loaders import load_huggingface
from mae.objectives.mae.model import MaskedAutoencoder

ENCODER = "encoder"
"""folder of the ViTModel"""

# Names of the weights on the hub, which every version of transformers reads.
ENCODER_NAMES = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "blocks": "encoder.layer",
}
DECODER_NAMES = {
    "mask_token": "mask_token",
    "pos_embed": "decoder_pos_embed",
    "embed": "decoder_embed",
    "norm": "decoder_norm",
    "pred": "decoder_pred",
    "blocks": "decoder_layers",
}
BLOCK_NAMES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}

FULL = f"""\
`config.json` and `model.safetensors` are a ViTMAEForPreTraining, decoder included; `{ENCODER}/` is
the encoder alone, a ViTModel, for features and fine-tuning (ViTMAEModel hides patches even in
evaluation mode)."""
ENCODER_ONLY = "`config.json` and `model.safetensors` are the encoder, a ViTModel."
CROP = """
`preprocessor_config.json` is for transformers' image processor: with `backend="pil"` it resizes as
timm and mae do, and its crop begins in the same place or one pixel above or to the left of theirs.
Its default backend differs from `pil` in about 3 pixels of 1,000, by 1 or 2 of 255."""
NO_PROCESSOR = """
No image processor of transformers crops these images as timm and mae do: read them as above."""

CODE = """\
{imports}from transformers import {classes}
{define}
encoder = ViTModel.from_pretrained({encoder}, add_pooling_layer=False).eval()
{read}tokens = encoder(images).last_hidden_state
"""
PROCESSOR = """\
processor = AutoImageProcessor.from_pretrained("FOLDER", backend="pil")
images = processor(images={image}, return_tensors="pt")["pixel_values"]
"""
PRETRAINING = """\
model = ViTMAEForPreTraining.from_pretrained("FOLDER")  # further pretraining, reconstructions
"""


def write_huggingface(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write both folders; without the decoder only ViTModel, in `folder` itself.

    Raises UserError where transformers is not installed, for images of more than 8 bits, with the
    decoder for images that are not square, and as `refuse_beyond_plain`.
    """
    vit, config, model = request.encoder, request.config, mae_of(request)
    refuse_options(request, "hf", {"--pool": "its users pool themselves"})
    refuse_beyond_plain(vit, "hf")
    try:
        import transformers  # noqa: F401  (the check of the export needs it)
    except ImportError:
        raise UserError("--format hf: needs transformers: pip install 'maekit[hf]'") from None
    if config.data.bits != 8:
        raise UserError(
            "--format hf: transformers' image processors read 8 bits a channel, these images have "
            f"{config.data.bits}; --format timm leaves reading them to you"
        )
    exported_decoder, remarks = named_decoder(request, "hf")
    if exported_decoder and len(set(vit.patch_embed.grid_size)) > 1:
        raise UserError("--format hf: ViTMAEForPreTraining takes square images: --no-decoder")
    has_processor = is_picture(config.data) and len(set(model.img_size)) == 1
    processor = json.dumps(processor_config(config, model), indent=2) + "\n"
    processor = processor if has_processor else ""
    encoder = hub_names(weights(vit), ENCODER_NAMES)
    arguments = encoder_config(model)
    normalised = request.normalize(images)
    inputs, expected = {"images": normalised}, expected_features(request, normalised)
    expected |= expected_photograph(request, rounds_down=has_processor)
    if has_processor:
        inputs, expected = inputs | {"pixels": images}, expected | {"pixel_values": normalised}
    if exported_decoder:
        decoder = hub_names(weights(exported_decoder), DECODER_NAMES)
        positions = decoder["decoder_pos_embed"]  # the hub has a row of zeros for the class token
        decoder["decoder_pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], 1)
        tensors = {f"vit.{k}": v for k, v in encoder.items()}
        tensors |= {f"decoder.{k}": v for k, v in decoder.items()}
        _write(folder, tensors, pretraining_config(config, model, arguments), processor)
        noise, prediction = expect_prediction(model, normalised)
        inputs, expected = inputs | noise, expected | prediction
        (folder / ENCODER).mkdir()
    encoder_folder = folder / ENCODER if exported_decoder else folder
    vit_config = arguments | {"architectures": ["ViTModel"], "model_type": "vit"}
    _write(encoder_folder, encoder, vit_config, processor)
    return ExportFiles(
        inputs=inputs,
        expected=expected,
        tolerance=1e-5,
        reader="transformers",
        files=(FULL if exported_decoder else ENCODER_ONLY)
        + (CROP if has_processor else NO_PROCESSOR),
        code=CODE.format(
            **_reading(request, has_processor)._asdict(),
            classes="AutoImageProcessor, " * has_processor
            + ("ViTMAEForPreTraining, ViTModel" if exported_decoder else "ViTModel"),
            encoder=f'"FOLDER/{ENCODER}"' if exported_decoder else '"FOLDER"',
        )
        + (PRETRAINING if exported_decoder else ""),
        loader=load_huggingface,
        library="transformers",
        settings=loader_settings(request),
        remarks=remarks,
    )


def _reading(request: ExportRequest, has_processor: bool) -> ReadingCode:
    """Code that makes `images` of a file, by the exported image processor where there is one."""
    if not has_processor:
        return prepare_code(request, as_tensor=True)
    read = PROCESSOR.format(image=open_code(request.config.data))
    return ReadingCode("from PIL import Image\n", "", read)


def hub_names(tensors: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Rename the tensors of an encoder or decoder for the hub, with qkv split in three.

    `names`: own names outside the blocks → the hub's.
    """
    renamed = {}
    for name, tensor in tensors.items():
        if not name.startswith("blocks."):
            stem = name if name in names else name.rpartition(".")[0]
            renamed[names[stem] + name[len(stem) :]] = tensor
            continue
        _, number, rest = name.split(".", 2)
        stem, _, kind = rest.rpartition(".")
        block = f"{names['blocks']}.{number}"
        if stem == "attn.qkv":
            for part, chunk in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[f"{block}.attention.attention.{part}.{kind}"] = chunk.clone()
        else:
            renamed[f"{block}.{BLOCK_NAMES[stem]}.{kind}"] = tensor
    return renamed


def encoder_config(model: MaskedAutoencoder) -> dict[str, Any]:
    """Common entries of ViTConfig and ViTMAEConfig."""
    vit = model.encoder
    block = vit.blocks[0]
    assert isinstance(block, Block) and isinstance(block.mlp, Mlp)
    height, width = model.img_size
    return {
        "hidden_size": vit.embed_dim,
        "num_hidden_layers": len(vit.blocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "image_size": height if height == width else [height, width],
        "patch_size": model.patch_size[0],
        "num_channels": vit.patch_embed.proj.in_channels,
        "dtype": "float32",
    }


def pretraining_config(
    config: Config, model: MaskedAutoencoder, arguments: dict[str, Any]
) -> dict[str, Any]:
    """Contents of config.json for a ViTMAEForPreTraining."""
    section = model_of(config)
    return arguments | {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "decoder_hidden_size": section.decoder_embed_dim,
        "decoder_num_hidden_layers": section.decoder_depth,
        "decoder_num_attention_heads": section.decoder_num_heads,
        "decoder_intermediate_size": model.decoder.state_dict()["blocks.0.mlp.fc1.bias"].numel(),
        "mask_ratio": model.mask_ratio,
        "norm_pix_loss": model.norm_pix_loss,
    }


def processor_config(config: Config, model: MaskedAutoencoder) -> dict[str, Any]:
    """Contents of preprocessor_config.json: resize the short side, crop the centre, normalise.

    For square images.
    """
    height, width = model.img_size
    crop_pct = choose_crop_pct(config.data.crop_pct, model.img_size)
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": config.data.in_chans == 3,
        "do_resize": True,
        "size": {"shortest_edge": int(height / crop_pct)},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(config.data.mean),
        "image_std": list(config.data.std),
    }


def _write(
    folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], processor: str
) -> None:
    save_tensors(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if processor:
        (folder / "preprocessor_config.json").write_text(processor)
