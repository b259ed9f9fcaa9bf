"""What `mae bench` does, given its parsed arguments."""

import argparse
from pathlib import Path

from mae.bench.attention import bench_attention
from mae.bench.cases import Case
from mae.bench.decoding import bench_decoding
from mae.bench.joint import bench_joint
from mae.bench.loader import bench_loader
from mae.bench.overhead import bench_overhead, overhead_table
from mae.bench.peers import bench_peers
from mae.bench.plots import step_plot
from mae.bench.profile import bench_profile
from mae.bench.report import table
from mae.bench.rounds import Effort
from mae.bench.soak import soak as soak_memory
from mae.bench.soak import table as soak_table
from mae.bench.step import bench_step
from mae.bench.tables import (
    attention_table,
    decoding_table,
    joint_table,
    peers_table,
    profile_table,
    step_table,
)
from mae.commands.progress import progress_line
from mae.config import Config
from mae.device import choose_device
from mae.results import write_json
from mae.settings import load_config
from mae.visualize import save_png

QUICK = Effort(rounds=2, seconds=0.2)


def step(args: argparse.Namespace) -> None:
    """`mae bench step`."""
    result = bench_step(
        args.models,
        args.batch_sizes,
        args.modes,
        args.decoder_depths,
        variants=["", *args.variants],
        img_size=args.img_size,
        precision=args.precision,
        device=choose_device(args.device),
        effort=_effort(args),
        progress=_tell,
    )
    _give(args.out, result, step_table(result))
    if args.plot:
        save_png(step_plot(result), args.plot)
        print(args.plot)


def peers(args: argparse.Namespace) -> None:
    """`mae bench peers`."""
    result = bench_peers(
        args.models,
        args.batch_sizes,
        args.modes,
        args.decoder_depth,
        img_size=args.img_size,
        precision=args.precision,
        device=choose_device(args.device),
        effort=_effort(args),
        progress=_tell,
    )
    _give(args.out, result, peers_table(result))


def joint(args: argparse.Namespace) -> None:
    """`mae bench joint`."""
    result = bench_joint(
        args.shards,
        _case(args),
        workers=args.workers,
        on_device=args.on_device,
        index_dir=args.index_dir,
        device=choose_device(args.device),
        effort=_effort(args),
        progress=_tell,
    )
    _give(args.out, result, joint_table(result))


def attention(args: argparse.Namespace) -> None:
    """`mae bench attention`."""
    device = choose_device(args.device)
    result = bench_attention(_case(args), device=device, effort=_effort(args), progress=_tell)
    _give(args.out, result, attention_table(result))


def decode(args: argparse.Namespace) -> None:
    """`mae bench decode`."""
    result = bench_decoding(
        args.shards,
        images=64 if args.quick else args.images,
        batch_size=args.batch_size,
        device=choose_device(args.device),
        effort=Effort(rounds=2 if args.quick else args.rounds),
        progress=_tell,
    )
    _give(args.out, result, decoding_table(result))


def profile(args: argparse.Namespace) -> None:
    """`mae bench profile`."""
    case = _case(args)._replace(implementation=args.implementation)
    result = bench_profile(case, device=choose_device(args.device))
    _give(args.out, result, profile_table(result))


def overhead(args: argparse.Namespace) -> None:
    """`mae bench overhead`."""
    result = bench_overhead(load_config(args.config, args.settings), args.rounds)
    _give(args.out, result, overhead_table(result))


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
        progress=progress_line("measured", "rounds"),
    )
    print(table(result))
    if args.out:
        write_json(args.out, result)
        print(args.out)


def _case(args: argparse.Namespace) -> Case:
    return Case(
        encoder=args.model,
        img_size=args.img_size,
        decoder_depth=args.decoder_depth,
        batch_size=args.batch_size,
        mode=args.mode,
        precision=args.precision,
    )


def _effort(args: argparse.Namespace) -> Effort:
    chosen = Effort(rounds=args.rounds, seconds=args.seconds)
    return (QUICK if args.quick else chosen)._replace(at_once=args.at_once)


def _tell(what: str, done: int, total: int) -> None:
    progress_line(f"{what}: measured", "rounds")(done, total)


def _give(out: Path | None, result: dict, shown: str) -> None:
    """The table for people, here and as a file; the numbers as JSON."""
    print(shown)
    if out:
        write_json(out, result)
        out.with_suffix(".md").write_text(f"{shown}\n")
        print(out)
