"""Judges: encoders other than the generating one, whose features compare images with real ones."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.data.transform import choose_crop_pct
from mae.evaluation.encoders import TOKENS, FrozenEncoder, open_encoder, weights_sha256
from mae.generation.latents import in_batches
from mae.generation.random_network import NAME, VERSION, random_features
from mae.networks.patches import unit_values
from mae.objectives.base import Objective
from mae.pictures.samples import as_levels
from mae.pretrained_weights.opened import OpenedModel

FEATURE = "judge"
"""name of its vectors among the features of images"""


class Judge(NamedTuple):
    """Encoder that compares images of a model: integers of the model's size, channels and bits."""

    encode: Callable[[Shaped[Tensor, "b c h w"]], Float[Tensor, "b d"]]
    name: str
    """in words, for reports"""
    sha256: str
    """of its weights"""
    settings: str = ""
    """everything else that its features depend on: the same weights may be read in other ways"""

    def frozen(self, config: Config, img_size: tuple[int, int]) -> FrozenEncoder:
        """The judge as an encoder of the views that the model sees, for the cache of features."""
        data = config.data
        return FrozenEncoder(
            encode=lambda images: {FEATURE: self.encode(images)},
            sha256=self.sha256,
            img_size=img_size,
            crop_pct=choose_crop_pct(data.crop_pct, img_size),
            pixels=f"views of the judged model, {data.bits} bits",
            name=FEATURE,
            settings=self.settings,
        )

    @torch.no_grad()
    def features(self, images: Shaped[Tensor, "b c h w"], device: str) -> Float[Tensor, "b d"]:
        """Features of integer images, float32 on the CPU, rounded as those in the cache."""
        found = in_batches(lambda part: self.encode(part.to(device)), images)
        return found.half().float()


def open_judge(source: str | None, opened: OpenedModel, device: str) -> Judge:
    """Judge from any source of `open_encoder` (None: the fixed random network).

    Raises UserError as `open_encoder`, where it is the encoder of the judged model or of its
    first stage, or takes images of other channels.
    """
    if source is None:
        return Judge(
            lambda images: random_features(unit_values(images)),
            NAME,
            hashlib.sha256(VERSION.encode()).hexdigest(),
        )
    loaded = open_encoder(Path(source))
    encoder, data = loaded.encoder, loaded.config.data
    if encoder.sha256 in own_checksums(opened.objective):
        raise UserError(
            f"--judge: {source} is the encoder of the judged model: in its own features a Gaussian "
            "looks real; take another encoder"
        )
    channels = opened.config.data.in_chans
    if data.in_chans != channels and channels != 1:
        raise UserError(
            f"--judge: {source} takes {data.in_chans} channels, and the images have {channels}"
        )
    loaded.module.to(device).eval()

    def encode(images: Tensor) -> Tensor:
        unit = unit_values(images)
        if unit.shape[1] != data.in_chans:
            unit = unit.expand(-1, data.in_chans, -1, -1)
        if tuple(unit.shape[-2:]) != tuple(encoder.img_size):
            unit = F.interpolate(unit, size=encoder.img_size, mode="bilinear", antialias=True)
        vectors = encoder.encode(as_levels(unit.clamp(0, 1), data.bits))
        return next(vector for name, vector in vectors.items() if name != TOKENS).float()

    settings = [encoder.settings, encoder.pixels, list(encoder.img_size), data.in_chans, data.bits]
    return Judge(encode, source, encoder.sha256, json.dumps(settings))


def own_checksums(model: Objective) -> set[str]:
    """Checksums of the encoders of a model and of its first stage."""
    stages = [model, *([model.first_stage.model] if model.first_stage else [])]
    return {weights_sha256(one.encoder_module()) for one in stages}
