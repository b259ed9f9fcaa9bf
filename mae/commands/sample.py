"""`mae sample`: new images drawn from a generative model."""

from __future__ import annotations

import argparse
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mae.commands.argument_types import amount, positive
from mae.commands.generated_images import (
    files_folder,
    generator_argument,
    open_generator,
    output_options,
    print_results,
)
from mae.commands.judged_images import judge_options, open_real, refuse_without_compare
from mae.commands.options import add_command, device_option, run_cache_options, seed_option

if TYPE_CHECKING:
    from torch import Tensor

    from mae.pretrained_weights.opened import OpenedModel


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "sample",
        "picture of new images drawn from a generative model",
        run,
        epilog="For objectives that draw images: vae, beta_vae, ladder, aae, and prior (over the "
        "codes of a vqvae, vqvae2 or fsq). The same seed draws the same images, whatever --count "
        "is. Settings, names of the files and the judgement go to a JSON file beside the picture; "
        "with --compare, NAME-nearest.png shows samples beside their nearest training images.",
    )
    generator_argument(parser)
    parser.add_argument(
        "-n", "--n", "--count", dest="count", type=positive, default=32, help="number of images"
    )
    seed_option(parser)
    parser.add_argument(
        "--temperature",
        type=amount,
        default=1.0,
        help="spread of the draws: below 1 more usual images, less different from each other",
    )
    output_options(parser, "samples")
    judge_options(parser, "samples")
    device_option(parser)
    run_cache_options(parser)


def run(args: argparse.Namespace) -> None:
    """Write the picture, its JSON file and the files of single images; print their paths."""
    import torch

    from mae.base.device import choose_device
    from mae.base.errors import UserError
    from mae.base.files import write_json
    from mae.base.output import print_error
    from mae.commands.judgement import judge_samples
    from mae.commands.pictures import model_title, picture_path, write_sheet
    from mae.generation.judging import judgement_notes, judgement_table
    from mae.generation.real_images import images_to_judge
    from mae.pictures.samples import SHOWN, SampleRequest, check_channels, sample_sheet

    refuse_without_compare(args)
    if args.count > SHOWN and not args.files:
        raise UserError(
            f"--count: the picture shows at most {SHOWN} images; add --files DIR for {args.count:,}"
        )
    out, opened = picture_path(args, "samples"), open_generator(args)
    objective, data = opened.objective, opened.config.data
    settings = _sample_settings(args, opened)
    device = choose_device(args.device)
    objective.to(device)
    real, judged = None, 0
    if args.compare:
        real = open_real(args, opened, device, print_error)
        judged = images_to_judge(real.held_out, args.judged)
    if args.files:
        check_channels(data.in_chans)
    title = model_title(args, opened)
    with files_folder(args.files) as folder:
        drawn = _draw(args, opened, judged, folder, device, settings)
        request = SampleRequest(args.count, args.seed, f"{title}: samples")
        sheet = sample_sheet(torch.cat(drawn.shown)[: min(SHOWN, args.count)], data.bits, request)
        report, lines, pages = None, [], [out]
        if real:
            samples = torch.cat(drawn.judged)[:judged]
            report, nearest = judge_samples(objective, real, samples, args.seed, title)
            lines = judgement_table(report, real.judge.name)
            sheet = sheet._replace(notes=[*sheet.notes, *judgement_notes(report, real.judge.name)])
            if nearest is not None:
                pages.append(out.with_name(f"{out.stem}-nearest{out.suffix}"))
                write_sheet(nearest, pages[1])
    write_sheet(sheet, out)
    record = {
        "step": opened.step,
        "objective": opened.config.objective,
        "seed": args.seed,
        "temperature": args.temperature,
        "count": args.count,
        "folder": str(args.files) if args.files else None,
        "files": drawn.files,
        **({"judged": report} if report else {}),
    }
    write_json(out.with_suffix(".json"), record)
    print_results(args, lines, (report or {}).get("findings", ()), pages)


def _sample_settings(args: argparse.Namespace, opened: OpenedModel) -> dict[str, float]:
    """Settings of the objective's `sample`.

    Raises UserError where it has no samples or not these settings.
    """
    from mae.base.errors import UserError
    from mae.evaluation.features import missing_features
    from mae.objectives.registry import declaration

    name, objective = opened.config.objective, opened.objective
    if reason := declaration(name).why_no_samples(opened.config):
        raise UserError(f"{args.run}: {reason}")
    if not hasattr(objective, "sample"):
        raise missing_features(args.run, name, "samples", "sample")
    if args.temperature == 1:
        return {}
    sample: Any = objective.sample
    if "temperature" not in signature(sample).parameters:
        raise UserError(f"--temperature: {name} has none: leave it out")
    return {"temperature": args.temperature}


class _Drawn(NamedTuple):
    shown: list[Tensor]
    """batches of images in [0, 1] that begin below the number of images of the sheet"""
    judged: list[Tensor]
    """batches of integer images that begin below the number of judged ones"""
    files: list[str]


def _draw(
    args: argparse.Namespace,
    opened: OpenedModel,
    judged: int,
    folder: Path | None,
    device: str,
    settings: dict[str, float],
) -> _Drawn:
    """Draw samples, at least --count and as many as are `judged`; write PNG files to `folder`."""
    from mae.base.output import print_error
    from mae.base.progress import ProgressLine
    from mae.pictures.samples import SHOWN, as_levels, draw_samples, write_samples

    bits = opened.config.data.bits
    drawn = _Drawn([], [], [])
    done, total = 0, max(args.count, judged)
    show = ProgressLine("drawing", "samples", print_error)
    show(0, total)
    for batch in draw_samples(opened.objective, total, args.seed, device, **settings):
        if folder and done < args.count:
            drawn.files.extend(write_samples(batch[: args.count - done], bits, folder, done))
        if done < min(SHOWN, args.count):
            drawn.shown.append(batch)
        if done < judged:
            drawn.judged.append(as_levels(batch, bits))
        done += len(batch)
        show(done, total)
    return drawn
