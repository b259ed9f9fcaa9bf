"""`mae bench joint`: speed of a training run on shards, compared with its training step alone."""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import yaml

from mae.base.device import choose_device, usable_cores
from mae.base.errors import RunFailed, UserError
from mae.commands.bench.cases import Case, case_of, model_name
from mae.commands.bench.rounds import (
    USUAL,
    Children,
    Effort,
    Progress,
    about,
    command,
    effort_of,
    environment,
    show_progress,
    silent,
)
from mae.commands.bench.tables import about_lines, markdown, write_result
from mae.commands.bench.timing import spread
from mae.config.sections import Config, DataConfig, InitConfig
from mae.data.indexing import build_manifest
from mae.objectives.registry import declaration, declarations
from mae.report.scales import percent
from mae.training.safety.monitor import data_wait_remedies

ENOUGH = 0.95
"""share of the step's speed from which the data is not the bottleneck"""

PRETRAIN = "mae pretrain"
STEP = "step"
WARM_UP = 1
"""intervals of the run that are not counted: workers start, code is compiled"""


def run(args: argparse.Namespace) -> None:
    """Run `mae bench joint`."""
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


def bench_joint(
    shards: Sequence[str],
    case: Case,
    *,
    workers: int,
    on_device: str = "",
    index_dir: Path | None = None,
    device: str = "cpu",
    effort: Effort = USUAL,
    progress: Progress = silent,
) -> dict:
    """Measure the step of `case`, and a run of `mae pretrain` with the same settings on `shards`.

    `on_device`: "crop" or "decode" on the device, or "".  The step is measured before and after the
    run, in rounds as long as the run's.  The result can be written as JSON.

    Raises UserError where the shards cannot be read or hold fewer images than a batch, or where the
    batch does not fit into memory, RunFailed where the run fails.
    """
    config = config_on(case.config(), shards, workers, on_device, index_dir)
    images = len(build_manifest(shards, "bench", index_dir))
    if images < case.batch_size:
        raise UserError(f"bench: {images} images in the shards, but a batch has {case.batch_size}")
    with Children({STEP: case._asdict()}, environment(device), 1) as children:
        step = children[STEP]
        if step.is_out_of_memory:
            raise UserError(
                f"bench: {case.batch_size} images do not fit into memory: ask for fewer"
            )
        step.round(effort.seconds)
        rounds = [step.round(effort.seconds) for _ in range(effort.rounds)]
        progress("the step, before", 1, 3)
        every = max(1, round(effort.seconds / rounds[0]["seconds"]))
        with tempfile.TemporaryDirectory(prefix="mae-bench-", ignore_cleanup_errors=True) as folder:
            rows = run_loop(
                config,
                images,
                every=every,
                rounds=effort.rounds,
                folder=Path(folder),
                device=device,
            )
        progress("the run", 2, 3)
        rounds += [step.round(effort.seconds) for _ in range(effort.rounds)]
        progress("the step, after", 3, 3)
    synthetic = spread([case.batch_size / one["seconds"] for one in rounds])
    real = spread([row["images_per_second"] for row in rows])
    share = real["median"] / synthetic["median"]
    data_wait = mean(row["data_wait"] for row in rows)
    return {
        **about(device, effort),
        **case._asdict(),
        "workers": workers,
        "on_device": on_device,
        "images": images,
        "step": {"images_per_s": synthetic},
        "loop": {"images_per_s": real, "data_wait": data_wait},
        "share": share,
        "bottleneck": bottleneck(share, data_wait, config.data, device.startswith("cuda")),
    }


def config_on(
    config: Config, shards: Sequence[str], workers: int, on_device: str, index_dir: Path | None
) -> Config:
    """`config` with these shards as its only data, starting from random weights.

    `on_device`: "crop", "decode" or "".  Raises UserError for objectives that `mae pretrain` does
    not train.
    """
    trained_by = declaration(config.objective).command
    if trained_by != PRETRAIN:
        known = ", ".join(one.name for one in declarations(PRETRAIN))
        raise UserError(
            f"bench joint: {trained_by} trains objective {config.objective}; measured are those "
            f"of {PRETRAIN}: {known}"
        )
    data = config.data.model_copy(
        update={
            "train": tuple(shards),
            "mixture": (),
            "val": (),
            "workers": workers,
            "index_dir": index_dir,
            "own_statistics": False,
            "crop_on_device": on_device == "crop",
            "decode_on_device": on_device == "decode",
        }
    )
    return config.model_copy(update={"data": data, "init": InitConfig()})


def run_loop(
    config: Config, images: int, every: int, rounds: int, folder: Path, device: str
) -> list[dict]:
    """Rows of metrics of a run in `folder`: one for each `every` steps, without the warm-up.

    Raises UserError where the run refuses its settings or data, RunFailed where it fails.
    """
    steps = every * (rounds + WARM_UP)
    values = config.model_dump(mode="json")
    values["output"] = str(folder / "run")
    values["train"] |= {
        # Half a step less: the number of steps is rounded up.
        "epochs": (steps - 0.5) * config.train.batch_size / images,
        "checkpoint_every": steps + 1,
        "checkpoint_minutes": 0,
    }
    values["optim"] |= {"warmup_epochs": 0}
    values["log"] |= {"every": every, "panel_every": 0, "health_every": 0, "trackers": []}
    path = folder / "joint.yaml"
    path.write_text(yaml.safe_dump(values))
    program = command("mae.pretrain", str(path))
    variables = {**os.environ, **environment(device)}
    done = subprocess.run(program, capture_output=True, text=True, env=variables)
    if done.returncode:
        last = " | ".join(done.stderr.strip().splitlines()[-3:])
        kind = UserError if done.returncode == 2 else RunFailed
        raise kind(f"bench: the run ended with code {done.returncode}: {last}")
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["step"] > every * WARM_UP]


def bottleneck(share: float, data_wait: float, data: DataConfig, has_gpu: bool = False) -> str:
    """Bottleneck of a run, and the settings that would make it faster.

    `share`: speed of the run relative to its step.  `data_wait`: share of the time that the run
    waits for data.
    """
    if share >= ENOUGH:
        return f"The run reaches {share:.0%} of the step's speed: the step is the bottleneck."
    if data_wait < (1 - share) / 2:
        return (
            f"The run reaches {share:.0%} of the step's speed, but waits for data only "
            f"{data_wait:.0%} of its time: data workers and step compete for the cores (fewer "
            "data.workers)."
        )
    ways = data_wait_remedies(data, 1, usable_cores(), has_gpu)
    return (
        f"Data is the bottleneck: {1 / share:.2f} times as fast without waiting for it. "
        f"Remedies: {', '.join(ways)}."
    )


def joint_table(result: dict) -> str:
    """Markdown table of the speed of step and run, the run's wait for data, and the bottleneck."""
    step, loop = result["step"], result["loop"]
    rows = [
        ["step, synthetic images", f"{step['images_per_s']['median']:,.4g}", "–", "–"],
        [
            f"run, {result['images']:,} images in shards",
            f"{loop['images_per_s']['median']:,.4g}",
            percent(result["share"]),
            percent(loop["data_wait"]),
        ],
    ]
    on_device = f", {result['on_device']} on the device" if result["on_device"] else ""
    case = (
        f"{model_name(result)}, batch {result['batch_size']}, {result['mode']}, "
        f"{result['workers']} data workers{on_device}"
    )
    heads = ["", "images/s", "of the step", "waiting for data"]
    return "\n".join(
        [*about_lines(result), "", case, "", *markdown(heads, rows), "", result["bottleneck"]]
    )
