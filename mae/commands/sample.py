"""`mae sample`: new images drawn from a generative model."""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mae.commands.options import add_command, device_option, positive, seed_option


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "sample",
        "picture of new images drawn from a generative model",
        run,
        epilog="For objectives that draw images: vae, beta_vae, and prior (over the codes of a "
        "vqvae or fsq). The same seed draws the same images, whatever --count is. Settings and "
        "names of the files go to a JSON file beside the picture.",
    )
    parser.add_argument(
        "run", type=Path, help="run folder, one of its checkpoints, or a plain export"
    )
    parser.add_argument("--count", type=positive, default=32, help="number of images")
    seed_option(parser)
    parser.add_argument(
        "--out", type=Path, help="file ending in .png or .html (default: RUN/samples.png)"
    )
    parser.add_argument(
        "--files", type=Path, metavar="DIR", help="new folder for a PNG file of each image"
    )
    device_option(parser)


def run(args: argparse.Namespace) -> None:
    """Write the picture, its JSON file and the files of single images; print their paths."""
    import torch

    from mae.base.device import choose_device
    from mae.base.errors import UserError
    from mae.base.files import new_folder, write_json
    from mae.commands.pictures import picture_path, write_sheet
    from mae.evaluation.features import missing_features
    from mae.objectives.registry import declaration
    from mae.pictures.samples import (
        SHOWN,
        SampleRequest,
        check_channels,
        draw_samples,
        sample_sheet,
        write_samples,
    )
    from mae.pretrained_weights.opened import open_model

    if args.count > SHOWN and not args.files:
        raise UserError(
            f"--count: the picture shows at most {SHOWN} images; add --files DIR for {args.count:,}"
        )
    out, opened = picture_path(args, "samples"), open_model(args.run)
    objective, data = opened.objective, opened.config.data
    if not hasattr(objective, "sample"):
        raise missing_features(args.run, opened.config.objective, "samples", "sample")
    if reason := declaration(opened.config.objective).why_no_samples(opened.config):
        raise UserError(f"{args.run}: {reason}")
    device = choose_device(args.device)
    objective.to(device)
    shown: list[torch.Tensor] = []
    files: list[str] = []
    with ExitStack() as stack:
        folder = None
        if args.files:
            check_channels(data.in_chans)
            folder = stack.enter_context(new_folder(args.files))
        for batch in draw_samples(objective, args.count, args.seed, device):
            if folder:
                files += write_samples(batch, data.bits, folder, len(files))
            if sum(map(len, shown)) < SHOWN:
                shown.append(batch)
    step = "" if opened.step is None else f", step {opened.step:,}"
    request = SampleRequest(args.count, args.seed, f"{args.run}{step}: samples")
    write_sheet(sample_sheet(torch.cat(shown)[:SHOWN], data.bits, request), out)
    record = {
        "step": opened.step,
        "objective": opened.config.objective,
        "seed": args.seed,
        "count": args.count,
        "folder": str(args.files) if args.files else None,
        "files": files,
    }
    write_json(out.with_suffix(".json"), record)
    print("\n".join([*([str(args.files)] if args.files else []), str(out)]))
