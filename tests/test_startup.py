"""Start-up of help, wrong use and the report: no torch, little CPU time."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.folders import write_results, write_run

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "vit_base_patch16_224.yaml"

HEAVY = {"torch", "timm", "torchvision", "accelerate", "transformers", "wandb"}
REPETITIONS = 3
"""maximum number of measurements: other load on the machine costs caches, and so time"""


def start(command: list[str], *options: str) -> tuple[subprocess.CompletedProcess, float]:
    """A command line in a process of its own, and its seconds of CPU."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *options, "-m", *command], capture_output=True, text=True, cwd=ROOT
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def imported(done: subprocess.CompletedProcess) -> set[str]:
    """Modules that a process started with `-X importtime` has imported."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip() for line in lines}


def check(command: list[str], code: int, limit: float) -> None:
    done, _ = start(command, "-X", "importtime")
    assert done.returncode == code, done.stderr[-2000:]
    assert not HEAVY & imported(done)
    taken = []
    while len(taken) < REPETITIONS and min(taken, default=limit) >= limit:
        taken.append(start(command)[1])
    assert min(taken) < limit, taken


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["mae", "--help"], 0),
        (["mae", "recipes"], 0),
        (["mae", "pretrain", "vit_smol"], 2),
        (["mae", "pretrain", "--help"], 0),
        (["mae", "pretrain", "nosuch.yaml"], 2),
        (["mae", "pretrain", str(CONFIG), "model.mask_raito=0.5"], 2),
        (["mae", "finetune", "--help"], 0),
        (["mae", "finetune", "nosuch.yaml"], 2),
        (["mae", "probe", "--help"], 0),
        (["mae", "report", "/nonexistent"], 2),
        (["mae.pretrain", "--help"], 0),
        (["mae.finetune", "--help"], 0),
    ],
)
def test_help_and_wrong_use(command, code):
    check(command, code, limit=1.0)


def test_a_report(tmp_path):
    run = write_run(tmp_path / "run")
    write_results(run)
    check(["mae", "report", str(run)], 0, limit=2.0)


@pytest.mark.parametrize(
    "command",
    [
        ["mae", "index", "/nonexistent/x.tar"],
        ["mae", "verify", "/nonexistent/x.tar"],
        ["mae", "pack", "/nonexistent", "/nonexistent/shards"],
    ],
)
def test_missing_data(command):
    check(command, 2, limit=2.0)


def test_an_index(make_shards, tmp_path):
    shards = make_shards(tmp_path, 20, shard_size=10, labels=True)
    check(["mae", "index", shards], 0, limit=2.0)


def test_run_folders_and_starts_need_no_torch():
    modules = ("checkpoint.run", "checkpoint.checkpoint_files", "safety.lifecycle", "start")
    script = "import sys\n" + "".join(f"import mae.training.{name}\n" for name in modules)
    script += f"sys.exit(bool({HEAVY!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0


SCRIPT = """
import sys, time
began = time.process_time()
import mae
assert time.process_time() - began < 0.1
assert {*mae.__all__} <= {*dir(mae)}
mae.Run, mae.RunFailed, mae.Stopped, mae.build, mae.train_classifier
for wrong in ({"recipe": "nosuch.yaml"}, {"recipe": {"model": {"mask_raito": 0.5}}}):
    try:
        mae.train(**wrong)
    except mae.UserError as error:
        print(error)
sys.exit(bool(%r & set(sys.modules)))
"""


def test_the_python_interface_is_light_until_it_works():
    taken = []
    while len(taken) < REPETITIONS and min(taken, default=1) >= 1:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        words = [sys.executable, "-c", SCRIPT % HEAVY]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr or done.stdout
        assert "no such config file" in done.stdout and "did you mean mask_ratio?" in done.stdout
        taken.append(after.ru_utime - before.ru_utime)
    assert min(taken) < 1, taken
