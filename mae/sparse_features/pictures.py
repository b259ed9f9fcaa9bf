"""Pictures of latents: their largest images, and where in these they fire."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mae.evaluation.parts import split
from mae.pictures.drawing import displayable, ramp, to_pil
from mae.pictures.latents import coloured, lit
from mae.sparse_features.survey import BATCH, Survey, SurveyRequest, encoded, load_views

SIDE = 72
"""height and width of a picture in pixels, in a square"""
GAP = 2
QUALITY = 75
"""of JPEG"""
FEW = 16
"""minimum number of pictures of latents that fire by place, and of common ones"""


def chosen_latents(rows: Sequence[Mapping[str, Any]], count: int) -> list[int]:
    """Latents that get pictures: the most selective, or else those of the largest mean.

    A few of those that fire by place, or almost anywhere, are among them.
    """
    key = "auroc" if "auroc" in rows[0] else "mean"
    order = sorted(rows, key=lambda row: (-row[key], row["latent"]))
    usual = [row["latent"] for row in order if row["kind"] == ""]
    odd = [
        row["latent"]
        for kind in ("place", "common")
        for row in [row for row in order if row["kind"] == kind][:FEW]
    ]
    return [*usual[: max(0, count - len(odd))], *odd][:count]


def latent_pictures(
    request: SurveyRequest, found: Survey, rows: Sequence[Mapping[str, Any]], chosen: Sequence[int]
) -> dict[int, str]:
    """Latent → data URI of its picture; encodes the images that are shown once more.

    The first row has the images in which the latent is largest, the second where it fires there;
    first of all, the places at which it fires on average.
    """
    wanted: dict[int, list[int]] = {}
    for latent in chosen:
        for image in rows[latent]["top"]:
            wanted.setdefault(image, []).append(latent)
    cells: dict[tuple[int, int], Tensor] = {}
    numbers = sorted(wanted)
    batches = [numbers[one.start : one.stop] for one in split(range(len(numbers)), BATCH)]
    for views in load_views(request, batches):
        if views.images is None:
            continue
        latents = encoded(request, views.images).latents.float().cpu()
        shown = coloured(displayable(views.images))
        for row, image in enumerate(views.samples):
            maps = latents[row][:, wanted[image]].T.unflatten(1, found.grid)
            pictures = shown[row].expand(len(maps), -1, -1, -1)
            pairs = torch.cat([pictures, lit(pictures, maps)], dim=2)
            for latent, pair in zip(wanted[image], small(pairs), strict=True):
                cells[latent, image] = pair
    by_place = np.asarray(found.arrays["uses"] / max(1, int(found.arrays["images"][0])))
    return {
        latent: data_uri(strip(place_map(by_place[latent], found.grid), pairs))
        for latent in chosen
        for pairs in [[cells[latent, one] for one in rows[latent]["top"] if (latent, one) in cells]]
    }


def small(pairs: Tensor) -> Iterator[Tensor]:
    """Pictures [m 3 2h w] in [0, 1] → uint8 [3 2·SIDE SIDE] each."""
    size = (2 * SIDE, SIDE)
    is_larger = pairs.shape[3] >= SIDE
    how: dict[str, Any] = {"mode": "bilinear", "antialias": True}
    resized = F.interpolate(pairs, size, **(how if is_larger else {"mode": "nearest-exact"}))
    yield from (resized.clamp(0, 1) * 255).round().to(torch.uint8)


def place_map(shares: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """Heat map uint8 [3 SIDE SIDE] of how often a latent fires at each place."""
    values = torch.from_numpy(np.asarray(shares, np.float32)).view(1, 1, *grid)
    values = F.interpolate(values / values.amax().clamp(min=1e-12), (SIDE, SIDE))
    colours = ramp()[(values[0, 0] * 255).round().long()]
    return (colours * 255).round().to(torch.uint8).movedim(-1, 0)


def strip(places: Tensor, pairs: Sequence[Tensor]) -> Image.Image:
    """Picture of one latent."""
    columns = 1 + len(pairs)
    canvas = Image.new("RGB", (columns * (SIDE + GAP) - GAP, 2 * SIDE + GAP), (128, 128, 128))
    canvas.paste(to_pil(places / 255), (0, (SIDE + GAP) // 2))
    for column, pair in enumerate(pairs, 1):
        for row in range(2):
            half = pair[:, row * SIDE : (row + 1) * SIDE]
            canvas.paste(to_pil(half / 255), (column * (SIDE + GAP), row * (SIDE + GAP)))
    return canvas


def data_uri(picture: Image.Image) -> str:
    """JPEG as a data URI."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
