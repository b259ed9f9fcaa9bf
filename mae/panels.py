"""The panels of a run: the same images under the same masks, again and again."""

from typing import NamedTuple

import torch
from torch import Tensor

from mae.config import Config
from mae.data.loader import CentredViews
from mae.data.manifest import Manifest, build_manifest
from mae.hashing import Stream, fold
from mae.models.mae import MaskedAutoencoder
from mae.objective import Objective
from mae.training.run import Run
from mae.training.tracking import Tracker
from mae.visualize import reconstruction_panel, save_png


class Panel(NamedTuple):
    """The fixed images that every panel shows, and the seeds of their masks."""

    images: Tensor
    seeds: Tensor
    source: str


def build_panel(config: Config, objective: Objective, manifest: Manifest) -> Panel | None:
    """The panel's images: the first of data.val, or of the training data where there is none."""
    if not isinstance(objective, MaskedAutoencoder):
        return None
    held_out = (
        build_manifest(config.data.val, "data.val", config.data.index_dir)
        if config.data.val
        else None
    )
    source = manifest if held_out is None else held_out
    count = min(config.log.panel_images, len(source))
    views = CentredViews(source, objective.img_size, config.model.in_chans, config.data.crop_pct)
    images = torch.stack([views.view(sample) for sample in range(count)])
    seeds = fold(config.train.seed, Stream.PANEL, torch.arange(count).numpy())
    name = "training images (no data.val)" if held_out is None else "held-out images"
    return Panel(images, torch.from_numpy(seeds.view("int64")), name)


def draw_panel(
    panel: Panel,
    objective: Objective,
    run: Run,
    tracker: Tracker,
    step: int,
    device: torch.device,
) -> None:
    """Write panels/step-….png."""
    assert isinstance(objective, MaskedAutoencoder)
    path = run.panels / f"step-{step:09d}.png"
    images, seeds = panel.images.to(device), panel.seeds.to(device)
    save_png(reconstruction_panel(objective, images, seeds, f"step {step}, {panel.source}"), path)
    tracker.picture("panel", path, step)
