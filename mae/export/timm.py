"""Format timm: a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from mae.base.files import save_tensors
from mae.data.transform import choose_crop_pct
from mae.export.check import load_timm
from mae.export.contract import (
    ExportFiles,
    ExportRequest,
    expected_features,
    exported_part,
    weights,
)
from mae.export.reading import (
    ReadingCode,
    expected_photograph,
    is_picture,
    open_code,
    prepare_code,
)
from mae.networks.encoders.registry import adapter_of
from mae.networks.vit import encoder_shape

FILES = "`model.safetensors` is the encoder, in timm's own names."

CLASSIFIER_FILES = "`model.safetensors` is the classifier, in timm's own names."

CLASSIFIER_CODE = """\
import timm
{imports}{define}
model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
{read}probabilities = model(images).softmax(1)  # [1, {classes}]
names = model.pretrained_cfg["label_names"]
# In transformers: AutoModelForImageClassification.from_pretrained("FOLDER"), with these names
"""

CODE = """\
import timm
{imports}{define}
encoder = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
{read}vector = encoder(images)  # {pooled}
tokens = encoder.forward_features(images)  # [1, {tokens}, {width}]
{more}# To fine-tune: timm.create_model("local-dir:FOLDER", pretrained=True, num_classes=10)
"""

MEAN = """\
patches = tokens[:, {prefix}:].mean(1)  # their mean, the other vector to try (mae probe)
"""

TRANSFORM = """\
transform = timm.data.create_transform(**timm.data.resolve_data_config({model}.pretrained_cfg))
images = transform({image})[None]
"""


def write_timm(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write config.json and model.safetensors."""
    vit, shape = request.encoder, encoder_shape(request.encoder)
    adapter, prefix = adapter_of(vit), shape.num_prefix_tokens
    save_tensors(weights(vit), folder / "model.safetensors", {"format": "pt"})
    config = timm_config(request)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    normalised = request.normalize(images)
    code = CLASSIFIER_CODE if vit.num_classes else CODE
    return ExportFiles(
        inputs={"images": normalised},
        expected=expected_features(request, normalised) | expected_photograph(request),
        tolerance=1e-6,
        reader="timm",
        files=CLASSIFIER_FILES if vit.num_classes else FILES,
        code=code.format(
            **_reading(request)._asdict(),
            classes=vit.num_classes,
            pooled="the class token" if request.pool == "token" else adapter.mean,
            more=adapter.ordered_code + MEAN.format(prefix=prefix) * (request.pool == "token"),
            tokens=f"{prefix} + {shape.num_patches}" if prefix else shape.num_patches,
            width=shape.embed_dim,
        ),
        loader=load_timm,
        library="timm",
        part=exported_part(request),
    )


def _reading(request: ExportRequest) -> ReadingCode:
    """Code that makes `images` of a file: timm's own transform where Pillow opens such files."""
    data = request.config.data
    if not is_picture(data):
        return prepare_code(request, as_tensor=True)
    model = "model" if request.encoder.num_classes else "encoder"
    read = TRANSFORM.format(model=model, image=open_code(data))
    return ReadingCode("from PIL import Image\n", "", read)


def timm_config(request: ExportRequest) -> dict[str, Any]:
    """config.json of timm's hub format: architecture, arguments, preprocessing."""
    vit, data, pool = request.encoder, request.config.data, request.pool
    shape, adapter = encoder_shape(vit), adapter_of(vit)
    arguments = {
        **request.vit.encoder_kwargs,
        **adapter.timm_arguments(vit),
        "global_pool": pool,
    }
    return {
        "architecture": request.vit.encoder.split(".")[0],
        "num_classes": vit.num_classes,
        # Here timm and transformers read them; without them 1,000 classes get ImageNet's names.
        **({"label_names": request.label_names} if vit.num_classes else {}),
        "num_features": shape.embed_dim,
        "global_pool": pool,
        "model_args": arguments,
        "pretrained_cfg": {
            "tag": "mae",
            "custom_load": False,
            "input_size": [shape.in_chans, *shape.img_size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": choose_crop_pct(data.crop_pct, request.model.img_size),
            "crop_mode": "center",
            "mean": list(data.mean),
            "std": list(data.std),
            "num_classes": vit.num_classes,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": adapter.head,
        },
    }
