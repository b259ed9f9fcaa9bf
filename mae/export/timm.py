"""A folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae.config import Config
from mae.export.subject import Pool, Subject, Written, expect_features, weights

DECODER_FILE = "decoder.safetensors"

FILES = "`model.safetensors` is the encoder, in timm's own names."
DECODER = f"""
`{DECODER_FILE}` is the pretraining decoder, for pictures or for going on; timm never reads it."""

CLASSIFIER = "`model.safetensors` is the classifier, in timm's own names."
CLASSIFIER_CODE = """\
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config(model.pretrained_cfg))
chances = model(transform(image)[None]).softmax(1)  # [1, {classes}]; image: of Pillow, in RGB
names = model.pretrained_cfg.get("label_names")
"""

CODE = """\
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True, num_classes=10)  # fine-tune
encoder = timm.create_model("local-dir:FOLDER", pretrained=True)  # {pooled}
transform = timm.data.create_transform(**timm.data.resolve_data_config(encoder.pretrained_cfg))
tokens = encoder.forward_features(images)  # [b, {prefix} + {patches}, {width}]
"""


def write_timm(folder: Path, subject: Subject, images: Tensor) -> Written:
    """config.json, model.safetensors and, with the decoder, decoder.safetensors."""
    vit = subject.model.encoder
    save_file(weights(vit), folder / "model.safetensors", {"format": "pt"})
    if subject.decoder:
        # In a file of its own: timm takes a state dict with a mask token for DINOv2's.
        save_file(weights(subject.pretraining.decoder), folder / DECODER_FILE, {"format": "pt"})
    config = timm_config(subject.config, vit, subject.pool, subject.class_names)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return Written(
        given={"images": subject.model.normalize_images(images)},
        expected=expect_features(subject, subject.model.normalize_images(images)),
        tolerance=1e-6,
        reader="timm",
        files=CLASSIFIER if vit.num_classes else FILES + DECODER * subject.decoder,
        code=CLASSIFIER_CODE.format(classes=vit.num_classes)
        if vit.num_classes
        else CODE.format(
            pooled="the class token" if subject.pool == "token" else "the mean of the patch tokens",
            prefix=vit.num_prefix_tokens,
            patches=vit.patch_embed.num_patches,
            width=vit.embed_dim,
        ),
    )


def timm_config(
    config: Config, vit: VisionTransformer, pool: Pool, class_names: Sequence[str] = ()
) -> dict[str, Any]:
    """The hub format of timm: architecture, arguments, preprocessing."""
    channels, img_size = vit.patch_embed.proj.in_channels, list(vit.patch_embed.img_size)
    arguments = {
        **config.model.encoder_kwargs,
        "img_size": img_size,
        "patch_size": vit.patch_embed.patch_size[0],
        "in_chans": channels,
        "global_pool": pool,
        # A pretrained encoder keeps the final norm on the tokens whatever the pooling; see
        # `build_encoder`.  A classifier may have it behind the pooling.
        "fc_norm": not isinstance(vit.fc_norm, nn.Identity),
    }
    return {
        "architecture": config.model.encoder.split(".")[0],
        "num_classes": vit.num_classes,
        "num_features": vit.embed_dim,
        "global_pool": pool,
        "model_args": arguments,
        "pretrained_cfg": {
            "tag": "mae",
            "custom_load": False,
            "input_size": [channels, *img_size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": config.data.crop_pct,
            "crop_mode": "center",
            "mean": list(config.data.mean),
            "std": list(config.data.std),
            "num_classes": vit.num_classes,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            **({"label_names": list(class_names)} if class_names else {}),
        },
    }
