"""Detector: scorers with their parameters and threshold, in a folder that holds all they need.

NAME/detector.json         settings, threshold, provenance, checksum of the other file
NAME/detector.safetensors  parameters of the scorers; calibration scores; marks of the images
NAME/encoder/              plain export of the encoder, unless features are pixels
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mae.anomaly.looks import Looks, read_looks
from mae.anomaly.patch_features import PatchFeatures
from mae.anomaly.scorers import SCORERS, ScoreMaps
from mae.base.errors import UserError
from mae.base.files import read_json, save_tensors
from mae.base.redaction import for_record

FORMAT = "mae detector 1"
SETTINGS, PARAMETERS, ENCODER = "detector.json", "detector.safetensors", "encoder"
TOP = 0.01
"""share of an image's patches, those with the largest scores, whose mean is the image's score"""
MAIN = "detector"
"""name of the member that decides; the others are baselines"""
LOOKS = "looks"
"""first part of the names of the marks of images"""


class Member(NamedTuple):
    """A scorer on features, fitted."""

    features: PatchFeatures
    scorer: str
    parameters: Mapping[str, Tensor]

    @property
    def about(self) -> str:
        """Features and scorer, for tables."""
        return f"{self.features.name}, {self.scorer}"

    def maps(self, images: Tensor) -> ScoreMaps:
        """Scores [b gh gw] of the patches of views [b c H W] by `features.rule`, integers."""
        scorer, rule = SCORERS[self.scorer], self.features.rule
        with torch.no_grad():
            found = [
                (numbers, scorer.score(self.parameters, maps))
                for numbers, maps in self.features.in_tiles(images, scorer.is_positional)
            ]
            if rule.tiling is None:
                return found[0][1]
            dim = 1 if scorer.is_positional else 0
            tiles = [
                tile
                for numbers, own in found
                for tile in own.unflatten(dim, (len(numbers), -1)).unbind(dim)
            ]
            return rule.stitched(tiles, (images.shape[-2], images.shape[-1]))


def image_scores(maps: ScoreMaps) -> Tensor:
    """Score of each image [b]: mean of the largest scores of its patches, TOP of them."""
    flat = maps.flatten(1)
    count = max(1, round(TOP * flat.shape[1]))
    return flat.topk(count, dim=1).values.double().mean(1)


def write_detector(
    folder: Path,
    members: Mapping[str, Member],
    calibration: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    looks: Mapping[str, Looks] = {},
) -> None:
    """Write settings, parameters and the calibration scores of each member into a new folder.

    Settings lose their secrets; `mae.base.redaction.lacks_secret` knows such locations.
    `looks`: marks of the normal and the calibration images.
    """
    tensors = {f"calibration.{name}": scores for name, scores in calibration.items()}
    tensors |= {f"{LOOKS}.{name}": torch.from_numpy(one.table()) for name, one in looks.items()}
    for name, member in members.items():
        tensors |= {
            f"{name}.{key}": value.detach().cpu().contiguous()
            for key, value in member.parameters.items()
        }
    save_tensors(tensors, folder / PARAMETERS, {"format": FORMAT})
    content = {
        "format": FORMAT,
        **for_record(dict(settings)),
        "parameters_sha256": _sha256(folder / PARAMETERS),
        "members": {
            name: {"features": member.features.sha256, "scorer": member.scorer}
            for name, member in members.items()
        },
    }
    (folder / SETTINGS).write_text(json.dumps(content, indent=1) + "\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Stored(NamedTuple):
    """Content of a detector's folder."""

    settings: dict[str, Any]
    parameters: dict[str, dict[str, Tensor]]
    """of each member"""
    calibration: dict[str, Tensor]
    """float64 [n] of each member"""
    looks: dict[str, Looks]
    """marks of `normal` and `calibration` images"""


def read_detector(folder: Path) -> Stored:
    """Read a detector's folder.  Raises UserError where it is none, or damaged."""
    settings = read_json(folder / SETTINGS)
    if settings.get("format") != FORMAT:
        raise UserError(f"{folder}: is no detector of this version (mae anomaly fit makes one)")
    try:
        tensors = load_file(folder / PARAMETERS)
        sha256 = _sha256(folder / PARAMETERS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / PARAMETERS}: cannot be read: {error}") from None
    if sha256 != settings.get("parameters_sha256"):
        raise UserError(
            f"{folder / PARAMETERS}: is not of this {SETTINGS} (another checksum): copy the whole "
            "folder again, or fit again"
        )
    parameters: dict[str, dict[str, Tensor]] = {name: {} for name in settings["members"]}
    calibration, looks = {}, {}
    for name, value in tensors.items():
        member, key = name.split(".", 1)
        if member == "calibration":
            calibration[key] = value
        elif member == LOOKS:
            looks[key] = read_looks(value.numpy())
        elif member in parameters:
            parameters[member][key] = value
    if missing := [name for name in parameters if not parameters[name] or name not in calibration]:
        raise UserError(f"{folder / PARAMETERS}: holds nothing of {', '.join(missing)}")
    return Stored(settings, parameters, calibration, looks)
