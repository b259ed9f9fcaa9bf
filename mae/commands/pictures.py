"""The commands that draw: `mae reconstruct`."""

import argparse

import torch

from mae.commands.images import load_images, require_mae, write_png
from mae.device import choose_device
from mae.evaluation.reconstruction import explained_variance
from mae.hashing import Stream, fold
from mae.results import write_json
from mae.tensor_hashing import as_tensor
from mae.training.run import load_pretrained
from mae.visualize import reconstruction_panel


def reconstruct(args: argparse.Namespace) -> None:
    """`mae reconstruct`."""
    config, objective, position = load_pretrained(args.run)
    device = choose_device(args.device)
    model = require_mae(objective).to(device)
    limit = max(args.count, args.r2_images)
    images = load_images(args.images, config, model, limit).to(device)
    words = fold(args.seed, Stream.PANEL, torch.arange(len(images)).numpy())
    seeds = as_tensor(words).to(device)
    out = args.out or args.run / "reconstruction.png"
    title = f"{args.run}, step {position.step}"
    panel = reconstruction_panel(model, images[: args.count], seeds[: args.count], title)
    write_png(panel, out)
    pairs = zip(images[: args.r2_images].split(64), seeds[: args.r2_images].split(64), strict=True)
    explained = explained_variance(model, pairs)
    write_json(out.with_suffix(".json"), {"step": position.step, **explained._asdict()})
    given = "0 by definition" if model.norm_pix_loss else "told, no model could be"
    print(f"R² on hidden patches of {explained.images} images")
    print(f"  {'model':34}{explained.model:7.3f}")
    print(f"  {'interpolation of visible patches':34}{explained.interpolation:7.3f}")
    print(f"  {'mean of each hidden patch':34}{explained.patch_mean:7.3f}  ({given})")
    print(out)
