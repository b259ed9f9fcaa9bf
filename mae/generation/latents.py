"""Latents of an opened model: images → latents → images, and paths between two latents."""

from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from mae.base.errors import UserError
from mae.evaluation.encoders import FrozenEncoder, frozen_encoder
from mae.evaluation.features import missing_features
from mae.objectives.registry import declaration
from mae.pictures.samples import BATCH, as_levels
from mae.pretrained_weights.opened import OpenedModel

LATENTS = "latents"
"""name of the latents among the features of images"""

PARALLEL = 1e-6
"""sine of the angle between latents below which no great circle is defined"""

PathKind = Literal["line", "sphere"]


def in_batches(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """`function` of BATCH rows of `inputs` at a time, always as many; results on the CPU.

    Row n of the result is thus the same bits for any number of rows.
    """
    done = []
    for part in inputs.split(BATCH):
        missing = BATCH - len(part)
        whole = torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
        done.append(function(whole)[: len(part)].cpu())
    return torch.cat(done)


class LatentSpace(NamedTuple):
    """Latents of a model, one row per image."""

    opened: OpenedModel
    device: str
    shape: tuple[int, ...]
    """shape of the latents of one image"""
    path: PathKind
    """path between two latents on which images lie"""

    @property
    def numbers(self) -> int:
        """Numbers per image."""
        return prod(self.shape)

    @torch.no_grad()
    def encode(self, images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b n"]:
        """Latents of integer images, without noise, float32 on the CPU."""
        model: Any = self.opened.objective
        return in_batches(
            lambda part: model.latents(part.to(self.device)).float().flatten(1), images
        )

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b n"]) -> Float[Tensor, "b c h w"]:
        """Images in [0, 1], float32 on the CPU.

        Raises UserError where they are not finite.
        """
        model: Any = self.opened.objective
        dtype = next(model.parameters()).dtype
        images = in_batches(
            lambda part: model.decode(part.to(self.device, dtype).unflatten(1, self.shape)).float(),
            latents,
        )
        if not images.isfinite().all():
            raise UserError("decoded latents are not finite: the weights are damaged")
        return images.clamp(0, 1)

    def levels(self, images: Float[Tensor, "b c h w"]) -> Shaped[Tensor, "b c h w"]:
        """Images in [0, 1] → integers of the model's bits."""
        return as_levels(images, self.opened.config.data.bits)

    def encoder(self) -> FrozenEncoder:
        """Encoder whose features are the latents, for the cache of features."""
        model: Any = self.opened.objective
        frozen = frozen_encoder(self.opened, model)
        return frozen._replace(
            encode=lambda images: {LATENTS: model.latents(images).float().flatten(1)},
            settings=f"{frozen.settings} {LATENTS}",
        )


@torch.no_grad()
def open_latents(opened: OpenedModel, source: Path, command: str, device: str) -> LatentSpace:
    """Latents of a model, which moves to `device`; `source` and `command` are for messages.

    Raises UserError where it has no latents to decode, or where points between them are no images.
    """
    config, model = opened.config, opened.objective
    declared = declaration(config.objective)
    latents: Any = getattr(model, "latents", None)
    if latents is None or not hasattr(model, "decode"):
        raise missing_features(source, config.objective, "latents to decode", command)
    if reason := declared.why_no_path(config):
        raise UserError(f"{source}: mae {command}: {reason}")
    model.to(device)
    dtype = torch.uint8 if config.data.bits == 8 else torch.uint16
    blank = torch.zeros(1, config.data.in_chans, *model.img_size, dtype=dtype)
    shape = tuple(latents(blank.to(device)).shape[1:])
    return LatentSpace(opened, device, shape, declared.latent_path(config))


def latent_path(
    first: Float[Tensor, " n"],
    second: Float[Tensor, " n"],
    shares: Sequence[float],
    kind: PathKind,
) -> Float[Tensor, "k n"]:
    """Latents at each of `shares` of the way from `first` to `second`.

    sphere: spherical linear interpolation (Shoemake 1985; White 2016, arXiv:1609.04468, section 2),
    whose length goes from that of one end to that of the other; a straight line where the ends
    are parallel or opposite, as no great circle is defined there.
    """
    share = torch.tensor(shares, dtype=torch.float64)[:, None]
    ends = first.double(), second.double()
    weights = 1 - share, share
    lengths = [one.norm() for one in ends]
    if kind == "sphere" and min(lengths) > 0:
        cosine = (ends[0] @ ends[1] / (lengths[0] * lengths[1])).clamp(-1, 1)
        angle = torch.arccos(cosine)
        if angle.sin() > PARALLEL:
            weights = tuple((part * angle).sin() / angle.sin() for part in weights)
    return (weights[0] * ends[0] + weights[1] * ends[1]).float()


def angle_degrees(first: Float[Tensor, " n"], second: Float[Tensor, " n"]) -> float:
    """Angle between two latents in degrees; 0 where one is 0."""
    lengths = (first.double().norm() * second.double().norm()).item()
    if not lengths:
        return 0.0
    cosine = (first.double() @ second.double() / lengths).clamp(-1, 1)
    return torch.rad2deg(torch.arccos(cosine)).item()
