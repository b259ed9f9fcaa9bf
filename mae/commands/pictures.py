"""The commands that draw: `mae reconstruct`, `attention`, `pca`, `neighbours`."""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from mae.base.device import choose_device
from mae.base.errors import UserError
from mae.base.files import write_json
from mae.base.hashing import Stream, fold
from mae.base.tensor_hashing import as_tensor
from mae.commands.images import (
    Loaded,
    check_picture,
    load_images,
    sample_name,
    write_sheet,
)
from mae.config.sections import Config
from mae.data.training_data import open_images
from mae.data.transform import stack
from mae.data.views import CentredViews
from mae.evaluation.encoders import TOKENS, ObjectiveEncoder
from mae.evaluation.feature_cache import cached_features
from mae.evaluation.features import EncoderOutputs, encoder_outputs, missing_features
from mae.networks.vit import timm_encoder
from mae.objectives import registry
from mae.objectives.base import Objective
from mae.pictures import reconstruction
from mae.pictures.attention import attention_sheet, last_attention
from mae.pictures.components import components_sheet, principal_components, without_position_mean
from mae.pictures.neighbours import nearest, neighbours_sheet
from mae.pictures.reconstruction import BATCH, ReconstructionRequest
from mae.training.checkpoint.run import run_of
from mae.training.checkpoint.trained import load_pretrained, refuse_probe

WHAT = {
    "reconstruct": "reconstructions",
    "attention": "attention",
    "pca": "principal components of patch tokens",
    "neighbours": "nearest neighbours",
}
"""titles of the sheets"""


class Opened(NamedTuple):
    """A run's objective on its device, in evaluation mode."""

    config: Config
    objective: Objective
    step: int
    title: str

    def lacks(self, args: argparse.Namespace, what: str) -> UserError:
        """The refusal of a command that needs `what`."""
        return missing_features(args.run, self.config.objective, what, args.command)


def reconstruct(args: argparse.Namespace) -> None:
    """`mae reconstruct`."""
    out, opened = _out(args, "reconstruction"), _open(args)
    objective = opened.objective
    if not hasattr(objective, "reconstruct"):
        raise opened.lacks(args, "reconstructions")
    images, names = _load(args, opened, max(args.count, args.measured))
    seeds = as_tensor(fold(args.seed, Stream.PANEL, torch.arange(len(images)).numpy()))
    asked = ReconstructionRequest(
        images,
        names,
        seeds.to(images.device),
        args.count,
        args.measured,
        opened.title,
        args.mask,
        args.mask_ratio,
        args.columns or (),
    )
    own = registry.implementation(opened.config.objective).reconstruct(objective, asked)
    made = own or reconstruction.reconstruct(objective, asked, opened.config.objective)
    write_sheet(made.sheet, out)
    write_json(out.with_suffix(".json"), {"step": opened.step, **made.figures})
    print("\n".join([*made.lines, str(out)]))


def attention(args: argparse.Namespace) -> None:
    """`mae attention`."""
    out, opened = _out(args, "attention"), _open(args)
    encoder = timm_encoder(opened.objective)
    if encoder is None:
        raise opened.lacks(args, "attention blocks of a Vision Transformer of timm")
    grid = _grid(args, opened)
    images, names = _load(args, opened)
    attention = last_attention(encoder, opened.objective.encode, images)
    write_sheet(attention_sheet(images, names, attention, grid, opened.title), out)
    print(out)


def pca(args: argparse.Namespace) -> None:
    """`mae pca`."""
    out, opened = _out(args, "pca"), _open(args)
    grid, encode = _grid(args, opened), ObjectiveEncoder(opened.objective)
    images, names = _load(args, opened)
    with torch.no_grad():
        tokens = torch.cat([encode(part)[TOKENS].cpu() for part in images.split(BATCH)])
    if args.contents:
        tokens = without_position_mean(tokens)
    found = principal_components(tokens, grid, args.foreground)
    sheet = components_sheet(images, names, found, grid, opened.title, has_places=not args.contents)
    write_sheet(sheet, out)
    print(out)


def neighbours(args: argparse.Namespace) -> None:
    """`mae neighbours`."""
    out, opened = _out(args, "neighbours"), _open(args)
    config, objective = opened.config, opened.objective
    vectors = _outputs(args, opened).vectors
    if not vectors:
        raise opened.lacks(args, "pooled features")
    feature = vectors[0]
    queries, names = _load(args, opened)
    images = open_images(args.among, "--among", config)
    known = cached_features(
        run_of(args.run).folder,
        config,
        objective,
        images,
        device=queries.device,
        workers=args.workers,
        log=lambda text: print(text, file=sys.stderr),
    )
    with torch.no_grad():
        asked = objective.encode(queries).pooled[feature].float().cpu().numpy()
    found = nearest(asked, known.vectors[feature][:].astype("float32"), args.k)
    views = CentredViews(images, objective.img_size, config.data.crop_pct)
    numbers = known.samples[found.rows].tolist()
    sheet = neighbours_sheet(
        queries,
        names,
        found,
        [stack([views.view(number) for number in near]) for near in numbers],
        [[sample_name(images, number) for number in near] for near in numbers],
        len(known.samples),
        opened.title,
        feature,
    )
    write_sheet(sheet, out)
    print(out)


def _open(args: argparse.Namespace) -> Opened:
    refuse_probe(args.run)
    config, objective, state = load_pretrained(args.run)
    title = f"{args.run}, step {state.step:,}: {WHAT[args.command]}"
    return Opened(config, objective.to(choose_device(args.device)), state.step, title)


def _load(args: argparse.Namespace, opened: Opened, limit: int | None = None) -> Loaded:
    """Centred views on the device."""
    limit = limit or args.count
    images, names = load_images(args.images, opened.config, opened.objective.img_size, limit)
    return Loaded(images.to(choose_device(args.device)), names)


def _outputs(args: argparse.Namespace, opened: Opened) -> EncoderOutputs:
    objective, device = opened.objective, choose_device(args.device)
    encode = ObjectiveEncoder(objective)
    return encoder_outputs(objective, encode, objective.img_size, opened.config, device)


def _grid(args: argparse.Namespace, opened: Opened) -> tuple[int, int]:
    """Rows and columns of patch tokens; UserError where there are none."""
    size = _outputs(args, opened).patch_size
    if size is None:
        raise opened.lacks(args, "patch tokens")
    height, width = opened.objective.img_size
    return height // size[0], width // size[1]


def _out(args: argparse.Namespace, name: str) -> Path:
    """The picture's file: in the run's folder, also where RUN is one of its checkpoints."""
    return check_picture(args.out or run_of(args.run).folder / f"{name}.png")
