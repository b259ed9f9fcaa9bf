"""Folders that transformers' `from_pretrained` reads: names of weights, config, preprocessing."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from timm.layers import Mlp
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae.base.errors import UserError
from mae.base.files import save_tensors
from mae.config.sections import DataConfig
from mae.data.transform import choose_crop_pct
from mae.export.contract import ExportRequest
from mae.export.reading import (
    ReadingCode,
    expected_photograph,
    is_picture,
    open_code,
    prepare_code,
)

# Names of the weights on the hub, which every version of transformers reads.
ENCODER_NAMES = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "blocks": "encoder.layer",
}
BLOCK_NAMES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}

CROP = """
`preprocessor_config.json` is for transformers' image processor: with `backend="pil"` it resizes as
timm and mae do, and its crop begins in the same place or one pixel above or to the left of theirs.
Its default backend differs from `pil` in about 3 pixels of 1,000, by 1 or 2 of 255."""
NO_PROCESSOR = """
No image processor of transformers crops these images as timm and mae do: read them as above."""
PROCESSOR = """\
processor = AutoImageProcessor.from_pretrained("FOLDER", backend="pil")
images = processor(images={image}, return_tensors="pt")["pixel_values"]
"""


def refuse_unreadable(data: DataConfig) -> None:
    """Raise UserError without transformers (it checks the export), or beyond 8 bits a channel."""
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise UserError("--format hf: needs transformers: pip install 'maekit[hf]'") from None
    if data.bits != 8:
        raise UserError(
            "--format hf: transformers' image processors read 8 bits a channel, these images have "
            f"{data.bits}; --format timm leaves reading them to you"
        )


class HubReading(NamedTuple):
    """Part of an export that reads images: transformers' image processor, where one can."""

    processor: str
    """contents of preprocessor_config.json; empty: no processor crops these images as we do"""
    inputs: dict[str, Tensor]
    """inputs of the check: normalised images, and for the processor integer ones"""
    expected: dict[str, Tensor]
    """outputs of the check: a photograph as it is read, and the processor's pixels"""
    code: ReadingCode
    """code that makes `images` of a file"""

    @property
    def files(self) -> str:
        """Sentence on the processor, for the card."""
        return CROP if self.processor else NO_PROCESSOR

    def classes(self, models: str) -> str:
        """Names that the code imports from transformers: `models`, and the processor's class."""
        return f"AutoImageProcessor, {models}" if self.processor else models


def hub_reading(request: ExportRequest, images: Tensor) -> HubReading:
    """Reading of images like the integer `images` [b c h w] of the model's size."""
    data, size = request.config.data, request.model.img_size
    has_processor = is_picture(data) and len(set(size)) == 1
    normalised = request.normalize(images)
    inputs = {"images": normalised}
    expected = expected_photograph(request, rounds_down=has_processor)
    if not has_processor:
        return HubReading("", inputs, expected, prepare_code(request, as_tensor=True))
    read = PROCESSOR.format(image=open_code(data))
    return HubReading(
        json.dumps(processor_config(data, size), indent=2) + "\n",
        inputs | {"pixels": images},
        expected | {"pixel_values": normalised},
        ReadingCode("from PIL import Image\n", "", read),
    )


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


def encoder_config(vit: VisionTransformer) -> dict[str, Any]:
    """Common entries of ViTConfig and ViTMAEConfig."""
    block: Any = vit.blocks[0]
    assert isinstance(block.mlp, Mlp)
    height, width = vit.patch_embed.img_size
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
        "patch_size": vit.patch_embed.patch_size[0],
        "num_channels": vit.patch_embed.proj.in_channels,
        "dtype": "float32",
    }


def processor_config(data: DataConfig, img_size: tuple[int, int]) -> dict[str, Any]:
    """Contents of preprocessor_config.json: resize the short side, crop the centre, normalise.

    For square images.
    """
    height, width = img_size
    crop_pct = choose_crop_pct(data.crop_pct, img_size)
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": data.in_chans == 3,
        "do_resize": True,
        "size": {"shortest_edge": int(height / crop_pct)},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(data.mean),
        "image_std": list(data.std),
    }


def write_folder(
    folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], processor: str
) -> None:
    """Write model.safetensors, config.json and, unless it is empty, the processor's settings."""
    save_tensors(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if processor:
        (folder / "preprocessor_config.json").write_text(processor)


def load_complete(kind: Any, folder: Path, **arguments: bool) -> nn.Module:
    """Model of a class of transformers; AssertionError for missing or unknown tensors."""
    model, info = kind.from_pretrained(folder, output_loading_info=True, **arguments)
    wrong = {key: keys for key, keys in info.items() if keys}
    assert not wrong, f"{kind.__name__}: {wrong}"
    return model.eval()


def processed(folder: Path, pixels: Tensor) -> Tensor:
    """Integer images [b c h w] of the model's size, as the exported processor normalises them."""
    from transformers import AutoImageProcessor

    values = AutoImageProcessor.from_pretrained(folder)(
        [image.numpy() for image in pixels],
        do_resize=False,  # they have the model's size
        do_center_crop=False,
        do_convert_rgb=False,
        input_data_format="channels_first",
        return_tensors="pt",
    )
    return values["pixel_values"]
