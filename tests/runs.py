"""Tiny real runs for tests: configs, commands, and what they leave behind."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"

TINY = """\
model:
  encoder: vit_tiny_patch16_224
  encoder_kwargs: {embed_dim: 32, depth: 2, num_heads: 2}
  patch_size: 4
  decoder_embed_dim: 16
  decoder_depth: 1
  decoder_num_heads: 2
data: {img_size: 16, workers: 0, mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}
optim: {lr: 2.0e-3, warmup_epochs: 1}
train: {epochs: 4, batch_size: 8, checkpoint_every: 4}
log: {every: 1, panel_every: 0, wandb: false}
"""


def write_config(folder: Path, shards: str) -> Path:
    """The tiny config, training on `shards`, with its run folder beside it."""
    path = folder / "tiny.yaml"
    path.write_text(
        f"output: {folder}/run\n{TINY}".replace("data: {", f"data: {{train: '{shards}', ")
    )
    return path


def command(config: Path, *settings: str, processes: int = 1) -> list[str]:
    """The command line that a person types."""
    return launched("mae.pretrain", str(config), *settings, processes=processes)


def launched(module: str, *words: str, processes: int = 1) -> list[str]:
    """The command line of a module, on as many processes."""
    return [*launcher(processes), "-m", module, *words]


def launcher(processes: int) -> list[str]:
    """The command line up to the script or module that as many processes run."""
    if processes == 1:
        return [sys.executable]
    options = ["--multi_gpu", "--num_processes", str(processes), "--num_machines", "1"]
    options += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    return [sys.executable, "-m", "accelerate.commands.launch", *options]


def on_two_processes(*words: str) -> list[str]:
    """The command line of `mae WORDS` on two processes of this machine."""
    return [sys.executable, "-m", "mae", *words, "--processes", "2"]


def forked(program: str, *words: str) -> list[str]:
    """The command line of a module or script on two processes, without accelerate's launcher."""
    return [sys.executable, "-m", "tests.forked", "2", program, *words]


def launch(config: Path, *settings: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    return completed(command(config, *settings, processes=processes))


def launch_forked(config: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """Run to the end on two processes, without accelerate's launcher."""
    return completed(forked("mae.pretrain", str(config), *settings))


def completed(line: list[str]) -> subprocess.CompletedProcess[str]:
    """A command line, run to its end."""
    return subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=300)


def launch_and_kill(config: Path, *settings: str, after_step: int, processes: int = 1) -> None:
    """Run until metrics.jsonl has step `after_step`, then kill −9 every process."""
    words = command(config, *settings, processes=processes)
    run_and_kill(words, config.parent / "run" / "metrics.jsonl", after_step, processes > 1)


def run_and_kill(words: list[str], metrics: Path, after_step: int, is_launcher: bool) -> None:
    """Run a command line until `metrics` has step `after_step`, then kill −9 every process."""
    process = subprocess.Popen(
        words,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    deadline = time.monotonic() + 120
    try:
        while not (metrics.exists() and f'"step": {after_step},' in metrics.read_text()):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "the run did not start"
            time.sleep(0.005)
    finally:
        first = psutil.Process(process.pid)
        first.suspend()  # else it tidies up; its processes lead sessions of their own
        members = [first, *(first.children(recursive=True) if is_launcher else [])]
        for member in members:
            member.kill()
        process.wait()
        psutil.wait_procs(members[1:])


def environment() -> dict[str, str]:
    """Environment of what the tests start: this repository's modules, one thread per process.

    One thread is what the launcher of several processes sets: sums add up in one order.
    """
    path = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)}


def metrics_of(run: Path) -> list[dict]:
    """The rows of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def final_weights(run: Path) -> dict[str, Tensor]:
    """The model of the newest checkpoint."""
    newest = max((run / "checkpoints").glob("step-*[0-9]"))
    return load_file(newest / "model.safetensors")


def same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """The same names and bits."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def exit_status(run: Path) -> dict:
    """The last word of a run."""
    return json.loads((run / "exit-status").read_text())


def events_of(run: Path) -> list[dict]:
    """The rows of events.jsonl."""
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
