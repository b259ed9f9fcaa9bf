"""Difference between our pixels and Pillow's, on the same files and crop boxes."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mae.base.hashing import fold
from mae.config.sections import DataConfig
from mae.data.device_crop import pack_crops, resize_crops
from mae.data.manifest import Manifest
from mae.data.shard_reader import ShardReader
from mae.data.transform import View, apply_view, draw_views, random_view
from mae.decoding.decode import decode
from mae.decoding.pixels import EXTENSIONS

IMAGES = 64


def pixel_differences(manifest: Manifest, size: tuple[int, int]) -> dict[str, dict[str, float]]:
    """Mean and largest absolute difference in [0, 255] after decoding and after random crops.

    Keys: "decode"; "view", crops resized on the CPU to `size` (height, width); "device crop", crops
    resized by torch.  Of the first IMAGES images, without horizontal flips.
    """
    config, reader = DataConfig(), ShardReader(manifest)
    count = min(IMAGES, len(manifest))
    draws = draw_views(fold(0, np.arange(count)))
    differences: dict[str, list[Tensor]] = {"decode": [], "view": [], "device crop": []}
    for sample, row in enumerate(draws):
        data = reader.read(sample)
        image = decode(data, EXTENSIONS[manifest.kind[sample]], 3)
        with Image.open(io.BytesIO(data)) as opened:
            theirs = opened.convert("RGB")
        height, width = image.shape[-2:]
        view = random_view(height, width, row, config.scale, config.ratio, flip=False)
        ours = {
            "decode": image,
            "view": apply_view(image, view, size),
            "device crop": resize_crops(pack_crops([image], [view]), size, "cpu")[0],
        }
        resized = crop_by_pillow(theirs, view, size)
        for name, pixels in ours.items():
            other = _pixels(theirs if name == "decode" else resized)
            differences[name].append((pixels.int() - other.int()).abs().flatten())
    return {
        name: {"mean": all_of.double().mean().item(), "max": all_of.max().item()}
        for name, all_of in ((name, torch.cat(parts)) for name, parts in differences.items())
    }


def crop_by_pillow(image: Image.Image, view: View, size: tuple[int, int]) -> Image.Image:
    """Crop and resize as torchvision's RandomResizedCrop does with a Pillow image; no flip."""
    box = (view.left, view.top, view.left + view.width, view.top + view.height)
    return image.crop(box).resize(size[::-1], Image.Resampling.BICUBIC)


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
