"""Launcher files of launch/ and the commands of the README."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.yaml")), ids=lambda p: p.name)
def test_accelerate_accepts_the_config(path):
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    values = yaml.safe_load(path.read_text())
    assert config.num_processes == values["num_processes"]
    assert values["mixed_precision"] == "no"  # train.precision decides, in one place
    is_parallel = values["num_processes"] > 1
    assert (config.distributed_type in ("MULTI_GPU", "FSDP")) is is_parallel


@pytest.mark.parametrize(
    "path",
    [*sorted((ROOT / "launch").glob("*.s[hb]*")), ROOT / ".ci" / "run"],
    ids=lambda p: p.name,
)
def test_shell_scripts_parse(path):
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0


def test_ci_runs_the_readmes_test_command():
    readme = (ROOT / "README.md").read_text()
    assert "launch/test.sh" in readme and "launch/demo.sh" in readme
    assert "launch/test.sh" in (ROOT / ".ci" / "run").read_text()
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "test.yml").read_text()


def test_every_file_and_command_that_the_readme_names_exists():
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"\b(?:launch|configs|mae|tests)/[\w./]*\w", readme))
    assert len(named) > 3
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_constraints_are_versions_without_addresses():
    lines = (ROOT / "constraints.txt").read_text().split("\n")
    for line in filter(None, lines):
        assert re.match(r"[\w.-]+==[\w.+!-]+( ;.*)?$", line), line


# What SLURM does, as its manual pages have it: srun starts one task per node, in a process group of
# its own and with SLURM_NODEID, passes USR1 and TERM on to these groups, and returns the highest
# exit code of its tasks (128 + n for one that signal n killed).
SRUN = """\
import os, signal, subprocess, sys
words = sys.argv[1:]
options = [words.pop(0) for _ in list(words) if words[0].startswith("--")]
with open("srun-options", "w") as file:
    file.write(" ".join(options))
tasks = [
    subprocess.Popen(words, env=os.environ | {"SLURM_NODEID": str(node)}, process_group=0)
    for node in range(int(os.environ["SLURM_NNODES"]))
]
def pass_on(number, frame):
    for task in tasks:
        if task.poll() is None:
            os.killpg(task.pid, number)
signal.signal(signal.SIGUSR1, pass_on)
signal.signal(signal.SIGTERM, pass_on)
codes = [task.wait() for task in tasks]
sys.exit(max(128 - code if code < 0 else code for code in codes))
"""
SCONTROL = """\
import sys
if sys.argv[1:3] == ["show", "hostnames"]:
    print({"gpu[07-08]": "gpu07\\ngpu08", "gpu07": "gpu07"}[sys.argv[3]])
else:
    with open("scontrol", "a") as file:
        file.write(" ".join(sys.argv[1:]) + "\\n")
"""
# A launcher with its run in one: leaves the run's word, and 1 for every code, as launchers do.
ACCELERATE = """\
import json, os, signal, sys, time
node = os.environ["SLURM_NODEID"]
with open(f"arguments-{node}", "w") as file:
    file.write(" ".join(sys.argv[1:]))
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append("USR1"))
signal.signal(signal.SIGTERM, lambda *_: seen.append("TERM"))
def leave(code):
    with open(os.environ["MAE_EXIT_STATUS"], "w") as file:
        json.dump({"code": code, "step": 4, "reason": "fake"}, file)
    sys.exit(min(code, 1))
if os.environ.get("FAKE_CODE"):
    leave(int(os.environ["FAKE_CODE"]))
open(f"ready-{node}", "w").close()
while not seen:
    time.sleep(0.01)
time.sleep(0.2 * int(node))  # no two nodes end at the same moment
open(f"seen-{node}", "w").write(" ".join(seen))
leave(75)
"""


class Job:
    """A submitted job, on a cluster of scripts that stand for SLURM's commands."""

    def __init__(self, folder: Path, nodes: int = 2, **variables: str) -> None:
        binaries = folder / ".venv" / "bin"
        binaries.mkdir(parents=True)
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("accelerate", ACCELERATE)):
            (binaries / name).write_text(f"#!{sys.executable}\n{text}")
            (binaries / name).chmod(0o755)
        path = f"{binaries}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        (binaries / "activate").write_text(f"export PATH='{path}'")
        (folder / "tiny.yaml").write_text("output: run\n")
        (folder / "launch").mkdir()
        (folder / "launch" / "multi_node.yaml").touch()
        self.folder, self.nodes = folder, nodes
        self.process = subprocess.Popen(
            ["bash", ROOT / "launch" / "slurm.sbatch", "tiny.yaml", "data.train=a b/*.tar"],
            cwd=folder,
            env=os.environ
            | {
                "PATH": path,
                "SLURM_SUBMIT_DIR": str(folder),
                "SLURM_JOB_ID": "123456",
                "SLURM_JOB_NODELIST": "gpu[07-08]" if nodes == 2 else "gpu07",
                "SLURM_NNODES": str(nodes),
                "SLURM_GPUS_ON_NODE": "8",
                "SLURM_CPUS_PER_TASK": "96",
            }
            | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, number: int | None = None) -> tuple[int, str]:
        """Its exit code and output, after a signal to the batch shell once all nodes train."""
        try:
            deadline = time.monotonic() + 30
            while number and not all(
                self.file_text(f"ready-{n}") is not None for n in self.node_ids
            ):
                assert self.process.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
            if number:
                self.process.send_signal(number)
            output, _ = self.process.communicate(timeout=30)
        finally:
            self.process.kill()
            self.process.communicate()
        return self.process.returncode, output

    @property
    def node_ids(self) -> range:
        return range(self.nodes)

    def file_text(self, name: str) -> str | None:
        path = self.folder / name
        return path.read_text() if path.exists() else None


def test_slurm_one_launcher_per_node_meets_at_the_first(tmp_path):
    job = Job(tmp_path, FAKE_CODE="0")
    assert job.end() == (0, "")
    for node in job.node_ids:
        assert job.file_text(f"arguments-{node}") == (
            "launch --config_file launch/multi_node.yaml --num_machines 2 --num_processes 16 "
            f"--machine_rank {node} --main_process_ip gpu07 --main_process_port 13456 "
            "-m mae.pretrain tiny.yaml data.train=a b/*.tar"
        )
    assert job.file_text("scontrol") is None
    # A node that ends must not have the others killed in the middle of their checkpoint.
    assert job.file_text("srun-options") == "--cpus-per-task=96 --kill-on-bad-exit=0 --wait=300"


@pytest.mark.parametrize("nodes", [1, 2])
def test_slurm_a_job_out_of_time_stops_everywhere_and_requeues_itself(tmp_path, nodes):
    job = Job(tmp_path, nodes)
    code, output = job.end(signal.SIGUSR1)
    assert code == 75
    assert [job.file_text(f"seen-{node}") for node in job.node_ids] == ["USR1"] * nodes
    assert job.file_text("scontrol") == "requeue 123456\n"
    assert "job 123456 goes back into the queue" in output


def test_slurm_a_cancelled_job_stops_and_stays_cancelled(tmp_path):
    job = Job(tmp_path)
    assert job.end(signal.SIGTERM)[0] == 75
    assert [job.file_text(f"seen-{node}") for node in job.node_ids] == ["TERM"] * 2
    assert job.file_text("scontrol") is None


def test_slurm_wrong_use_is_no_reason_to_requeue(tmp_path):
    job = Job(tmp_path, FAKE_CODE="2")
    assert job.end()[0] == 2
    assert job.file_text("scontrol") is None


def test_slurm_outside_of_a_job_says_what_to_type():
    bare = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    script = ROOT / "launch" / "slurm.sbatch"
    done = subprocess.run(["bash", script, "x.yaml"], env=bare, capture_output=True, text=True)
    assert done.returncode != 0 and "start this with sbatch" in done.stderr


def test_slurm_signals_the_batch_shell_in_time_and_keeps_one_log():
    text = (ROOT / "launch" / "slurm.sbatch").read_text()
    for directive in ("--signal=B:USR1@300", "--requeue", "--open-mode=append"):
        assert f"\n#SBATCH {directive}\n" in text
