"""Export for transformers' `from_pretrained`: ViTMAEForPreTraining, and in encoder/ ViTModel.

Two folders, because a ViTMAEModel hides patches even in evaluation mode, and reading a ViTModel
from the folder of a ViTMAEForPreTraining warns that half of the tensors are unknown.
"""

from pathlib import Path
from typing import Any

import torch
from timm.models.eva import Eva
from timm.models.hiera import Hiera
from torch import Tensor

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.export.contract import (
    ExportFiles,
    ExportRequest,
    Writer,
    expected_features,
    refuse_options,
    weights,
)
from mae.export.dinov3 import write_dinov3
from mae.export.hiera import write_hiera
from mae.export.huggingface import (
    ENCODER_NAMES,
    encoder_config,
    hub_names,
    hub_reading,
    refuse_unreadable,
    write_folder,
)
from mae.export.original import refuse_beyond_plain
from mae.networks.vit import encoder_shape
from mae.objectives.mae.declaration import model_of
from mae.objectives.mae.export import (
    expect_prediction,
    loader_settings,
    mae_of,
    named_decoder,
)
from mae.objectives.mae.loaders import load_huggingface
from mae.objectives.mae.model import MaskedAutoencoder

WRITERS: dict[type, Writer] = {Eva: write_dinov3, Hiera: write_hiera}
"""class of timm's → writer, for other classes than a plain ViT"""

ENCODER = "encoder"
"""folder of the ViTModel"""

DECODER_NAMES = {
    "mask_token": "mask_token",
    "pos_embed": "decoder_pos_embed",
    "embed": "decoder_embed",
    "norm": "decoder_norm",
    "pred": "decoder_pred",
    "blocks": "decoder_layers",
}
FULL = f"""\
`config.json` and `model.safetensors` are a ViTMAEForPreTraining, decoder included; `{ENCODER}/` is
the encoder alone, a ViTModel, for features and fine-tuning (ViTMAEModel hides patches even in
evaluation mode)."""
ENCODER_ONLY = "`config.json` and `model.safetensors` are the encoder, a ViTModel."
CODE = """\
{imports}from transformers import {classes}
{define}
encoder = ViTModel.from_pretrained({encoder}, add_pooling_layer=False).eval()
{read}tokens = encoder(images).last_hidden_state
"""
PRETRAINING = """\
model = ViTMAEForPreTraining.from_pretrained("FOLDER")  # further pretraining, reconstructions
"""


def write_huggingface(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write both folders; without the decoder only ViTModel, in `folder` itself.

    Encoders of the classes in `WRITERS` have a writer of their own.

    Raises UserError where transformers is not installed, for images of more than 8 bits, with the
    decoder for images that are not square, and as `refuse_beyond_plain`.
    """
    vit, config, model = request.encoder, request.config, mae_of(request)
    refuse_options(request, "hf", {"--pool": "its users pool themselves"})
    if own := WRITERS.get(type(vit)):
        return own(folder, request, images)
    vit = refuse_beyond_plain(vit, "hf")
    refuse_unreadable(config.data)
    exported_decoder, remarks = named_decoder(request, "hf")
    if exported_decoder and len(set(encoder_shape(vit).grid_size)) > 1:
        raise UserError("--format hf: ViTMAEForPreTraining takes square images: --no-decoder")
    reading = hub_reading(request, images)
    normalised = reading.inputs["images"]
    encoder = hub_names(weights(vit), ENCODER_NAMES)
    arguments = encoder_config(vit)
    inputs = reading.inputs
    expected = expected_features(request, normalised) | reading.expected
    if exported_decoder:
        decoder = hub_names(weights(exported_decoder), DECODER_NAMES)
        positions = decoder["decoder_pos_embed"]  # the hub has a row of zeros for the class token
        decoder["decoder_pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], 1)
        tensors = {f"vit.{k}": v for k, v in encoder.items()}
        tensors |= {f"decoder.{k}": v for k, v in decoder.items()}
        write_folder(
            folder, tensors, pretraining_config(config, model, arguments), reading.processor
        )
        noise, prediction = expect_prediction(model, normalised)
        inputs, expected = inputs | noise, expected | prediction
        (folder / ENCODER).mkdir()
    encoder_folder = folder / ENCODER if exported_decoder else folder
    vit_config = arguments | {"architectures": ["ViTModel"], "model_type": "vit"}
    write_folder(encoder_folder, encoder, vit_config, reading.processor)
    return ExportFiles(
        inputs=inputs,
        expected=expected,
        tolerance=1e-5,
        reader="transformers",
        files=(FULL if exported_decoder else ENCODER_ONLY) + reading.files,
        code=CODE.format(
            **reading.code._asdict(),
            classes=reading.classes(
                "ViTMAEForPreTraining, ViTModel" if exported_decoder else "ViTModel"
            ),
            encoder=f'"FOLDER/{ENCODER}"' if exported_decoder else '"FOLDER"',
        )
        + (PRETRAINING if exported_decoder else ""),
        loader=load_huggingface,
        library="transformers",
        settings=loader_settings(request),
        remarks=remarks,
    )


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
