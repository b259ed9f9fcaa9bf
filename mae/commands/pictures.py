"""The commands that draw: `mae reconstruct`, `attention`, `pca`, `neighbours`."""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer

from mae.commands.images import (
    Loaded,
    check_picture,
    load_images,
    require_mae,
    sample_name,
    write_sheet,
)
from mae.config import Config
from mae.data.loader import CentredViews
from mae.data.training_data import open_images
from mae.data.transform import stack
from mae.device import choose_device
from mae.evaluation.feature_cache import cached_features
from mae.evaluation.reconstruction import Explained, explained_variance
from mae.hashing import Stream, fold
from mae.models.classifier import Classifier
from mae.models.mae import MaskedAutoencoder
from mae.pictures.attention import attention_sheet, last_attention
from mae.pictures.components import components_sheet, principal_components, without_places
from mae.pictures.masks import ChosenMask, choose_masks, grid_of
from mae.pictures.neighbours import nearest, neighbours_sheet
from mae.pictures.reconstruction import COLUMNS, OF_SEVERAL, reconstruction_sheet
from mae.results import write_json
from mae.tensor_hashing import as_tensor
from mae.training.run import load_pretrained, run_of

FEATURE = "mean"
"""what neighbours are near in: the mean patch token, MAE's better feature"""

BATCH = 64

WHAT = {
    "reconstruct": "reconstructions",
    "attention": "attention",
    "pca": "principal components of patch tokens",
    "neighbours": "nearest neighbours",
}
"""what each command shows"""


class Opened(NamedTuple):
    """A run's model on its device, in evaluation mode, and images for it."""

    config: Config
    model: MaskedAutoencoder | Classifier
    shown: Loaded
    """on the device"""
    step: int
    title: str


def reconstruct(args: argparse.Namespace) -> None:
    """`mae reconstruct`."""
    out = _out(args, "reconstruction")
    opened = _open(args, args.images, max(args.count, args.r2_images))
    model = require_mae(opened.model, args.run, args.command)
    images, names = opened.shown
    masks = choose_masks(args.mask, args.mask_ratio, model)
    columns = args.columns or (COLUMNS if len(masks) == 1 else OF_SEVERAL)
    seeds = as_tensor(fold(args.seed, Stream.PANEL, torch.arange(len(images)).numpy()))
    seeds = seeds.to(images.device)
    count, counted = args.count, args.r2_images
    sheet = reconstruction_sheet(
        model, images[:count], names[:count], seeds[:count], masks, columns, opened.title
    )
    write_sheet(sheet, out)
    pairs = [*zip(images[:counted].split(BATCH), seeds[:counted].split(BATCH), strict=True)]
    found = [explained_variance(model, pairs, mask.draw) for mask in masks]
    rows = [
        {"mask": mask.pattern, "hidden": mask.hidden, **explained._asdict()}
        for mask, explained in zip(masks, found, strict=True)
    ]
    write_json(out.with_suffix(".json"), {"step": opened.step, **found[0]._asdict(), "masks": rows})
    for mask, explained in zip(masks, found, strict=True):
        _tell(mask, explained, model)
    print(out)


def attention(args: argparse.Namespace) -> None:
    """`mae attention`."""
    out = _out(args, "attention")
    opened = _open(args, args.images, args.count)
    model, (images, names) = opened.model, opened.shown
    looked = last_attention(_encoder(model), model.encode, images)
    write_sheet(attention_sheet(images, names, looked, grid_of(model), opened.title), out)
    print(out)


def pca(args: argparse.Namespace) -> None:
    """`mae pca`."""
    out = _out(args, "pca")
    opened = _open(args, args.images, args.count)
    model, (images, names) = opened.model, opened.shown
    with torch.no_grad():
        tokens = torch.cat([model.encode(part).tokens.cpu() for part in images.split(BATCH)])
    if args.contents:
        tokens = without_places(tokens)
    found = principal_components(tokens, grid_of(model), args.foreground)
    sheet = components_sheet(
        images, names, found, grid_of(model), opened.title, has_places=not args.contents
    )
    write_sheet(sheet, out)
    print(out)


def neighbours(args: argparse.Namespace) -> None:
    """`mae neighbours`."""
    out = _out(args, "neighbours")
    opened = _open(args, args.images, args.count)
    config, model, (queries, names) = opened.config, opened.model, opened.shown
    images = open_images(args.among, "--among", config)
    known = cached_features(
        run_of(args.run).folder,
        config,
        model,
        images,
        device=queries.device,
        workers=args.workers,
        say=lambda text: print(text, file=sys.stderr),
    )
    with torch.no_grad():
        asked = model.encode(queries).pooled[FEATURE].float().cpu().numpy()
    found = nearest(asked, known.vectors[FEATURE][:].astype("float32"), args.k)
    views = CentredViews(images, model.img_size, config.data.crop_pct)
    numbers = known.samples[found.rows].tolist()
    sheet = neighbours_sheet(
        queries,
        names,
        found,
        [stack([views.view(number) for number in near]) for near in numbers],
        [[sample_name(images, number) for number in near] for near in numbers],
        len(known.samples),
        opened.title,
    )
    write_sheet(sheet, out)
    print(out)


def _open(args: argparse.Namespace, sources: list[str], limit: int) -> Opened:
    config, objective, position = load_pretrained(args.run)
    device = choose_device(args.device)
    if args.command == "reconstruct":
        require_mae(objective, args.run, args.command)
    assert isinstance(objective, MaskedAutoencoder | Classifier)
    model = objective.to(device)
    images, names = load_images(sources, config, model.img_size, limit)
    title = f"{args.run}, step {position.step:,}: {WHAT[args.command]}"
    return Opened(config, model, Loaded(images.to(device), names), position.step, title)


def _out(args: argparse.Namespace, name: str) -> Path:
    """Where the picture goes: into the run's folder, also where RUN is one of its checkpoints."""
    return check_picture(args.out or run_of(args.run).folder / f"{name}.png")


def _encoder(model: MaskedAutoencoder | Classifier) -> VisionTransformer:
    """The one that `model.encode` runs: a classifier's averaged one where there is one."""
    average = model.average if isinstance(model, Classifier) else None
    return model.encoder if average is None else average


def _tell(mask: ChosenMask, explained: Explained, model: MaskedAutoencoder) -> None:
    given = "0 by definition" if model.norm_pix_loss else "told, no model could be"
    print(f"R² on hidden patches of {explained.images} images, {mask.hidden:.0%} hidden")
    print(f"  {'model':34}{explained.model:7.3f}")
    print(f"  {'interpolation of visible patches':34}{explained.interpolation:7.3f}")
    print(f"  {'mean of each hidden patch':34}{explained.patch_mean:7.3f}  ({given})")
