"""Features of a detector: raw pixels, or the encoder of a run, an export or a file of weights."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mae.anomaly.detector import ENCODER, MAIN, Member, Stored
from mae.anomaly.patch_features import (
    PATCH,
    PIXEL_SIZE,
    STRIDE,
    PatchFeatures,
    contrast_features,
    difference,
    pixel_features,
    vit_features,
)
from mae.anomaly.reconstruction import ReconstructionError, reconstruction_features
from mae.anomaly.scorers import SCORERS
from mae.anomaly.tiles import Tiling
from mae.base.errors import UserError
from mae.evaluation.encoders import weights_sha256
from mae.evaluation.features import missing_features
from mae.export.plain import without_local_paths
from mae.networks.vit import timm_encoder
from mae.objectives.base import FirstStage, Objective
from mae.pretrained_weights.architecture import WeightOptions
from mae.pretrained_weights.opened import NOTHING, OpenedModel, open_model
from mae.training.checkpoint.trained import build_objective, write_stage

PIXELS, CONTRAST = "pixels", "contrast"
OF_PIXELS = {PIXELS: pixel_features, CONTRAST: contrast_features}
"""features without a model"""
BASELINES = {"pixels, pca": "pca", "pixels, knn": "knn"}
"""baselines of every detector, by name: scorers on raw pixels"""
UNTRAINED = "untrained encoder"
MOST_TILES = 16
"""maximum number of tiles along a side"""


class Source(NamedTuple):
    """Features of a detector's members, and the images that they take."""

    members: dict[str, tuple[PatchFeatures, str]]
    """features and scorer by name: MAIN, then the baselines"""
    channels: int
    bits: int
    settings: dict[str, Any]
    """recorded in the detector"""
    write_encoder: Callable[[Path], None]
    """adds the encoder to a detector's folder"""
    lines: Sequence[str] = ()
    """lines for the user on weights of others"""


class Choice(NamedTuple):
    """Features and scorer of a detector, as recorded in it."""

    source: str = CONTRAST
    """PIXELS, CONTRAST, or a source of `open_model`"""
    scorer: str = "gaussian"
    channels: int = 3
    """of images, for pixels; an encoder has its own"""
    bits: int = 8
    layers: Sequence[int] | None = None
    """blocks of the encoder"""
    tiling: Tiling | None = None
    is_paired: bool = False
    """images are compared with references"""


def open_source(choice: Choice, device: str = "cpu", options: WeightOptions = NOTHING) -> Source:
    """Features that `choice` names, with baselines.

    Raises UserError as `open_model`, for encoders that are no Vision Transformer, models of float
    arrays or that do not reconstruct, and combinations that make no sense.
    """
    tiling, scorer = choice.tiling, choice.scorer
    _check_combination(choice)
    size = (tiling.side, tiling.side) if tiling and tiling.side else PIXEL_SIZE
    pixels = _of_pairs(pixel_features(size, tiling), choice)
    baselines = {name: (pixels, one) for name, one in BASELINES.items()}
    settings = {
        "channels": choice.channels,
        "bits": choice.bits,
        "layers": list(choice.layers) if choice.layers else None,
        "tiling": list(tiling) if tiling else None,
        "source": choice.source,
    }
    if choice.source in OF_PIXELS:
        _check_pixels(choice)
        own_features = _of_pairs(OF_PIXELS[choice.source](size, tiling), choice)
        members = {MAIN: (own_features, scorer), **baselines}
        own = {
            name: one
            for name, one in members.items()
            if name == MAIN or (one[0].sha256, one[1]) != (own_features.sha256, scorer)
        }
        return Source(own, choice.channels, choice.bits, settings, lambda folder: None)
    opened = open_model(Path(choice.source), options, with_decoder=_reconstructs(choice))
    data = opened.config.data
    if data.is_float:
        raise UserError(
            f"--features {choice.source}: was trained on arrays of floats (data.bits=32), and "
            "mae anomaly reads images of 8 or 16 bits: use another model"
        )
    members = {
        MAIN: (_of_model(opened, opened.objective, "encoder", choice, device), scorer),
        **baselines,
        UNTRAINED: (_untrained(opened, choice, device), scorer),
    }
    settings |= {"channels": data.in_chans, "bits": data.bits}

    def write_encoder(folder: Path) -> None:
        config = without_local_paths(opened.config)
        model = opened.objective
        stage = FirstStage(config, model, weights_sha256(model), opened.state, opened.init)
        write_stage(stage, folder / ENCODER)

    return Source(members, data.in_chans, data.bits, settings, write_encoder, opened.lines)


def recorded_choice(folder: Path, stored: Stored) -> Choice:
    """Choice of a detector, whose encoder is read from its folder."""
    settings = stored.settings
    tiling = settings.get("tiling")
    return Choice(
        source=settings["source"] if settings["source"] in OF_PIXELS else str(folder / ENCODER),
        scorer=settings["members"][MAIN]["scorer"],
        channels=settings["channels"],
        bits=settings["bits"],
        layers=settings["layers"],
        tiling=Tiling(*tiling) if tiling else None,
        is_paired=bool(settings.get("reference")),
    )


def open_members(folder: Path, stored: Stored, device: str = "cpu") -> dict[str, Member]:
    """Members of a detector, from its folder alone.

    Raises UserError where its encoder is missing or another than recorded.
    """
    settings = stored.settings
    found = open_source(recorded_choice(folder, stored), device)
    members = {}
    for name, (features, scorer) in found.members.items():
        known: Mapping[str, Any] = settings["members"].get(name, {})
        if known.get("features") != features.sha256:
            raise UserError(f"{folder}: {name}: other features than those it was fitted to")
        parameters = {key: value.to(device) for key, value in stored.parameters[name].items()}
        members[name] = Member(features, scorer, parameters)
    return members


def _check_combination(choice: Choice) -> None:
    tiling, scorer = choice.tiling, choice.scorer
    if tiling and tiling.side and SCORERS[scorer].is_positional:
        raise UserError(
            f"--tile-size: images of different sizes have other tiles, and --scorer {scorer} "
            "compares patches of one position: use --tiles, or --scorer pca, knn or decoder"
        )
    if tiling and tiling.side and (tiling.side < PATCH or tiling.side % STRIDE):
        raise UserError(
            f"--tile-size: {tiling.side} is no multiple of {STRIDE} pixels from {PATCH} on"
        )
    if tiling and tiling.count > MOST_TILES:
        raise UserError(f"--tiles: {MOST_TILES} along a side at most; for more use --tile-size")
    if scorer == ReconstructionError.name and choice.is_paired:
        raise UserError(
            "--reference: errors of reconstructions are not compared: use another --scorer"
        )


def _check_pixels(choice: Choice) -> None:
    if choice.layers:
        raise UserError(f"--layers: --features {choice.source} has none: leave it out")
    if _reconstructs(choice):
        raise UserError("--scorer reconstruction: needs a model: add --features RUN")


def _reconstructs(choice: Choice) -> bool:
    return choice.scorer == ReconstructionError.name


def _of_pairs(features: PatchFeatures, choice: Choice) -> PatchFeatures:
    return difference(features) if choice.is_paired else features


def _untrained(opened: OpenedModel, choice: Choice, device: str) -> PatchFeatures:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = build_objective(opened.config).eval()
    return _of_model(opened, fresh, UNTRAINED, choice, device)


def _of_model(
    opened: OpenedModel, objective: Objective, name: str, choice: Choice, device: str
) -> PatchFeatures:
    config, data, source = opened.config, opened.config.data, Path(choice.source)
    # The weights do not show the number of attention heads, for one.
    settings = f"{without_local_paths(config).model.model_dump_json()} {data.bits}"
    if _reconstructs(choice):
        if not hasattr(objective, "reconstruct") or not opened.has_decoder:
            raise missing_features(source, config.objective, "reconstructions", "anomaly")
        if choice.layers:
            raise UserError("--layers: reconstructions have none: leave it out")
        sha256 = f"{weights_sha256(objective)} {settings}"
        name = name.replace("encoder", config.objective)
        return reconstruction_features(objective.to(device), data.bits, name, sha256, choice.tiling)
    vit = timm_encoder(objective)
    if vit is None:
        needed = "Vision Transformer's blocks"
        raise missing_features(source, config.objective, needed, "anomaly")
    features = vit_features(
        vit.to(device),
        data.mean,
        data.std,
        data.bits,
        choice.layers,
        name,
        f"{weights_sha256(vit)} {settings}",
        choice.tiling,
    )
    return _of_pairs(features, choice)
