"""`mae latents`: shards of an autoencoder's latents, for other models to be trained on."""

import argparse
from pathlib import Path
from typing import Any

from mae.commands.argument_types import natural, positive
from mae.commands.options import (
    SHARDS,
    add_command,
    device_option,
    portion_of,
    portion_options,
    run_argument,
    run_cache_options,
    weight_options,
    with_own_cache,
    workers_option,
)

EPILOG = (
    "Of a Gaussian autoencoder the mean goes to KEY.npy and the standard deviation to KEY.std.npy, "
    "of others the latents to KEY.npy, or integer codes, the coarser of two levels to KEY.top.npy. "
    "Arrays are [c h w], vectors [n]. Shards keep their names, order and keys; labels, captions "
    "and other members that are no images are copied, as is classes.txt. latents.json has shapes, "
    "counts, the model's checksum and the scale of the latents. docs/LATENTS.md has the lines that "
    "train a diffusion model on them."
)


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands, "latents", "write an autoencoder's latents of shards as shards", run, EPILOG
    )
    run_argument(parser)
    parser.add_argument("shards", nargs="+", help=f"images; {SHARDS}")
    parser.add_argument("out", type=Path, help="new folder for the shards of latents")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="type of the latents; float16 is half the size",
    )
    parser.add_argument(
        "--flip",
        action="store_true",
        help="also the latents of the mirrored images, in KEY.flip.npy: for trainers that mirror "
        "images, since the mirrored latents of an image are others",
    )
    parser.add_argument(
        "--max-bad",
        type=natural,
        help="images that may fail to decode; they are left out and named (default: the run's "
        "data.max_bad)",
    )
    device_option(parser)
    run_cache_options(parser)
    workers_option(parser)
    parser.add_argument("--batch-size", type=positive, default=16, help="images encoded at a time")
    portion_options(parser)


def run(args: argparse.Namespace) -> None:
    """Write the folder OUT; print shapes, counts and the scale of the latents.

    Raises UserError as `export_latents`, and where the objective has no latents of images.
    """
    import torch

    from mae.base.device import choose_device, loader_count
    from mae.data.opening import open_images
    from mae.data.transform import choose_crop_pct
    from mae.data.views import CentredViews
    from mae.evaluation.encoders import weights_sha256
    from mae.evaluation.features import missing_features
    from mae.latents.arrays import ArrayMaker
    from mae.latents.export import LatentsRequest, export_latents
    from mae.latents.summary import size_line, summary_lines
    from mae.pretrained_weights.opened import log_lines, open_model

    portion = portion_of(args)
    log, device = portion.log, choose_device(args.device)
    opened = open_model(args.run, weight_options(args))
    log_lines(opened, log)
    config, objective = with_own_cache(opened.config, args), opened.objective.to(device).eval()
    image_latents: Any = getattr(objective, "image_latents", None)
    if image_latents is None:
        raise missing_features(args.run, config.objective, "latents", "latents")
    maker = ArrayMaker(image_latents, args.dtype, args.flip, device)
    data, size = config.data, objective.img_size
    pixels = torch.uint8 if data.bits == 8 else torch.uint16
    kinds, scale = maker.kinds(torch.zeros(1, data.in_chans, *size, dtype=pixels))
    images = portion.first_before_others(lambda: open_images(args.shards, "SHARDS", config))
    log(size_line(kinds, len(images.manifest)))
    sha256 = weights_sha256(objective)
    pixels_read = {
        "in_chans": data.in_chans,
        "bits": data.bits,
        "mean": list(data.mean),
        "std": list(data.std),
    }
    request = LatentsRequest(
        images=images,
        views=CentredViews(images, size, choose_crop_pct(data.crop_pct, size)),
        maker=maker,
        kinds=kinds,
        scale=scale,
        model={
            "run": str(args.run),
            "objective": config.objective,
            "step": opened.step,
            "sha256": sha256,
            **pixels_read,
        },
        identity=f"{sha256} {config.model.model_dump_json()} {pixels_read}",
        out=args.out,
        max_bad=data.max_bad if args.max_bad is None else args.max_bad,
        batch_size=args.batch_size,
        workers=loader_count(args.workers),
        portion=portion,
        log=log,
    )
    record = export_latents(request)
    print("\n".join(summary_lines(record, args.out)))
