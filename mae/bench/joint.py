"""`mae bench joint`: the real loop on real shards, beside the step on synthetic images."""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import yaml

from mae.base.device import usable_cores
from mae.base.errors import RunFailed, UserError
from mae.bench.cases import Case
from mae.bench.children import Children, command
from mae.bench.rounds import USUAL, Effort
from mae.bench.step import Progress, about, environment, silent
from mae.bench.timing import spread
from mae.config.sections import Config, DataConfig, InitConfig
from mae.data.manifest import build_manifest
from mae.objectives.registry import declaration, declarations
from mae.training.safety.monitor import ways_to_feed

ENOUGH = 0.95
"""of the step's speed: the loop is not bound by its data"""

PRETRAIN = "mae pretrain"
STEP = "step"
WARM_UP = 1
"""intervals of the loop that do not count: workers start, code is compiled"""


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
    """`case`, and a run of `mae pretrain` with its settings on `shards`.

    `on_device` is what of the data's work the device does: "crop", "decode" or "".  The step is
    measured before and after the run, in rounds as long as the run's.  The result is ready for
    JSON; `tables.joint_table` shows it.  Raises UserError where the shards cannot be read or hold
    fewer images than a batch, RunFailed where the run fails.
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
        with tempfile.TemporaryDirectory(prefix="mae-bench-") as folder:
            rows = run_loop(config, images, every, effort.rounds, Path(folder), device)
        progress("the loop", 2, 3)
        rounds += [step.round(effort.seconds) for _ in range(effort.rounds)]
        progress("the step, after", 3, 3)
    synthetic = spread([case.batch_size / one["seconds"] for one in rounds])
    real = spread([row["images_per_second"] for row in rows])
    share = real["median"] / synthetic["median"]
    waited = mean(row["data_wait"] for row in rows)
    return {
        **about(device, effort),
        **case._asdict(),
        "workers": workers,
        "on_device": on_device,
        "images": images,
        "step": {"images_per_s": synthetic},
        "loop": {"images_per_s": real, "data_wait": waited},
        "share": share,
        "advice": hint(share, waited, config.data, device.startswith("cuda")),
    }


def config_on(
    config: Config, shards: Sequence[str], workers: int, on_device: str, index_dir: Path | None
) -> Config:
    """`config` on these shards alone, from fresh weights; UserError where another command trains.

    `on_device`: "crop", "decode" or "".
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
    """Rows of metrics of a run: one for each `every` steps, those of the start left out."""
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
    values["log"] |= {"every": every, "panel_every": 0, "health_every": 0, "wandb": False}
    values["log"] |= {"tensorboard": False}
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


def hint(share: float, waited: float, data: DataConfig, has_gpu: bool = False) -> str:
    """The setting that would help, if any."""
    if share >= ENOUGH:
        return f"The loop does {share:.0%} of what the step could: the step decides."
    if waited < (1 - share) / 2:
        return (
            f"The loop does {share:.0%} of what the step could, yet waits {waited:.0%} of its time "
            "only: the data's work and the step's disturb each other (fewer data.workers)."
        )
    ways = ways_to_feed(data, 1, usable_cores(), has_gpu)
    return (
        f"Bound by its data: {1 / share:.2f} times as fast if it never waited. "
        f"What would help: {', '.join(ways)}."
    )
