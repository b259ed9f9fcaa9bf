"""`mae bench`, given its parsed arguments."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from mae.base.device import choose_device
from mae.base.errors import UserError
from mae.base.files import write_json
from mae.base.progress import progress_counter
from mae.bench.attention import bench_attention
from mae.bench.cases import Case
from mae.bench.decoding import bench_decoding
from mae.bench.joint import bench_joint
from mae.bench.loader import ALONE, Others, bench_loader
from mae.bench.overhead import bench_overhead, overhead_table
from mae.bench.plots import step_plot
from mae.bench.profile import bench_profile
from mae.bench.report import table
from mae.bench.rounds import Effort
from mae.bench.soak import soak as soak_memory
from mae.bench.soak import table as soak_table
from mae.bench.step import bases, bench_step
from mae.bench.tables import (
    attention_table,
    decoding_table,
    joint_table,
    profile_table,
    step_table,
)
from mae.config.loading import load_config
from mae.config.sections import Config
from mae.options.bench import DECODER_DEPTH, ENCODER
from mae.pictures.drawing import save_png

QUICK = Effort(rounds=2, seconds=0.2)


def step(args: argparse.Namespace) -> None:
    """`mae bench step`."""
    refuse_both(args.config, {"--models": args.models, "--decoder-depths": args.decoder_depths})
    result = bench_step(
        args.models or [ENCODER],
        args.batch_sizes,
        args.modes,
        args.decoder_depths or [DECODER_DEPTH],
        config_file=args.config,
        variants=["", *args.variants],
        img_size=args.img_size,
        precision=args.precision,
        device=choose_device(args.device),
        effort=effort_of(args),
        progress=show_progress,
    )
    write_result(args.out, result, step_table(result))
    if args.plot:
        save_png(step_plot(result), args.plot)
        print(args.plot)


def joint(args: argparse.Namespace) -> None:
    """`mae bench joint`."""
    result = bench_joint(
        args.shards,
        case_of(args),
        workers=args.workers,
        on_device=args.on_device,
        index_dir=args.index_dir,
        device=choose_device(args.device),
        effort=effort_of(args),
        progress=show_progress,
    )
    write_result(args.out, result, joint_table(result))


def attention(args: argparse.Namespace) -> None:
    """`mae bench attention`."""
    device = choose_device(args.device)
    result = bench_attention(
        case_of(args), device=device, effort=effort_of(args), progress=show_progress
    )
    write_result(args.out, result, attention_table(result))


def decode(args: argparse.Namespace) -> None:
    """`mae bench decode`."""
    result = bench_decoding(
        args.shards,
        images=64 if args.quick else args.images,
        batch_size=args.batch_size,
        device=choose_device(args.device),
        effort=Effort(rounds=2 if args.quick else args.rounds),
        progress=show_progress,
    )
    write_result(args.out, result, decoding_table(result))


def profile(args: argparse.Namespace) -> None:
    """`mae bench profile`."""
    result = bench_profile(case_of(args), device=choose_device(args.device))
    write_result(args.out, result, profile_table(result))


def overhead(args: argparse.Namespace) -> None:
    """`mae bench overhead`."""
    result = bench_overhead(load_config(args.config, args.settings), args.rounds)
    write_result(args.out, result, overhead_table(result))


def soak(args: argparse.Namespace) -> None:
    """`mae bench soak`."""
    workers = 1 if args.workers is None else args.workers
    data = {"train": tuple(args.shards), "workers": workers, "repeats": 1}
    config = Config.model_validate({"data": data, "train": {"batch_size": args.batch_size}})
    readings = soak_memory(config, args.img_size, args.samples)
    print(soak_table(readings))
    if args.out:
        write_json(args.out, {"readings": [reading._asdict() for reading in readings]})


def loader(args: argparse.Namespace) -> None:
    """`mae bench loader`."""
    measure_loader(args, ALONE)


def measure_loader(args: argparse.Namespace, others: Others) -> None:
    """Measure the loader, beside `others`; show it, and write what --out asks for."""
    quick = args.quick
    result = bench_loader(
        args.shards,
        short=args.short,
        img_size=args.img_size,
        images=64 if quick else args.images,
        batch_size=16 if quick else args.batch_size,
        rounds=2 if quick else args.rounds,
        workers=0 if quick else args.workers,
        repeats=args.repeats,
        others=others,
        progress=progress_counter("measured", "rounds"),
    )
    print(table(result))
    if args.out:
        write_json(args.out, result)
        print(args.out)


def case_of(args: argparse.Namespace) -> Case:
    """The case that the options describe; UserError where they name two models."""
    refuse_both(args.config, {"--model": args.model, "--decoder-depth": args.decoder_depth})
    return bases([args.model or ENCODER], [args.decoder_depth or DECODER_DEPTH], args.config)[
        0
    ]._replace(
        img_size=args.img_size,
        batch_size=args.batch_size,
        mode=args.mode,
        precision=args.precision,
        settings=args.settings,
    )


def refuse_both(config_file: str, options: Mapping[str, object]) -> None:
    """UserError where a file of settings is given, and options that describe another model."""
    if config_file and (given := [name for name, value in options.items() if value]):
        raise UserError(f"bench: --config describes the model: leave {' and '.join(given)} out")


def effort_of(args: argparse.Namespace) -> Effort:
    """Rounds and seconds that the options ask for."""
    chosen = Effort(rounds=args.rounds, seconds=args.seconds)
    return (QUICK if args.quick else chosen)._replace(at_once=args.at_once)


def show_progress(what: str, done: int, total: int) -> None:
    """A line that counts rounds, for a person only."""
    progress_counter(f"{what}: measured", "rounds")(done, total)


def write_result(out: Path | None, result: dict, shown: str) -> None:
    """Print the table; write it and, as JSON, the numbers where `out` is given."""
    print(shown)
    if out:
        write_json(out, result)
        out.with_suffix(".md").write_text(f"{shown}\n")
        print(out)
