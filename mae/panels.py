"""The panels of a run: the same images under the same masks, again and again."""

from typing import NamedTuple

import torch
from torch import Tensor

from mae.config import Config
from mae.data.images import usable_image
from mae.data.training_data import TrainingData, open_images
from mae.data.transform import center_view, stack
from mae.hashing import Stream, fold
from mae.models.mae import MaskedAutoencoder
from mae.objective import Objective
from mae.tensor_hashing import as_tensor
from mae.training.run import Run
from mae.training.tracking import Tracker
from mae.visualize import reconstruction_panel, save_png


class Panel(NamedTuple):
    """The fixed images that every panel shows, and the seeds of their masks."""

    images: Tensor
    seeds: Tensor
    source: str


def build_panel(config: Config, objective: Objective, training: TrainingData) -> Panel | None:
    """The panel's images: the first of data.val, or of the training data where there is none."""
    if not isinstance(objective, MaskedAutoencoder):
        return None
    held_out = open_images(config.data.val, "data.val", config) if config.data.val else None
    images = held_out or training.images(config)
    count = min(config.log.panel_images, len(images.manifest))
    read, manifest, seed = images.__getitem__, images.manifest, config.train.seed
    usable = (usable_image(read, manifest, number, seed, epoch=0) for number in range(count))
    size, crop_pct = objective.img_size, config.data.crop_pct
    shown = stack([center_view(one.image, size, crop_pct) for one in usable])
    seeds = fold(config.train.seed, Stream.PANEL, torch.arange(count).numpy())
    name = "training images (no data.val)" if held_out is None else "held-out images"
    return Panel(shown, as_tensor(seeds), name)


def draw_panel(
    panel: Panel,
    objective: Objective,
    run: Run,
    tracker: Tracker,
    step: int,
    device: torch.device,
) -> None:
    """Write panels/step-….png.  All processes call it where the objective is sharded."""
    assert isinstance(objective, MaskedAutoencoder)
    path = run.panels / f"step-{step:09d}.png"
    images, seeds = panel.images.to(device), panel.seeds.to(device)
    picture = reconstruction_panel(objective, images, seeds, f"step {step}, {panel.source}")
    if tracker.is_main:
        save_png(picture, path)
        tracker.picture("panel", path, step)
