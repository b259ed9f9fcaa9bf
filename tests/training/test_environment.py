"""Record of a run's start: `describe_start` and `git_state`."""

import json
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

import mae
from mae.training import environment
from mae.training.environment import describe_start, git_state


def test_a_start_is_described_in_one_line_of_json(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    row = json.loads(json.dumps(describe_start()))
    assert abs((datetime.now(UTC) - datetime.fromisoformat(row["time"])).total_seconds()) < 60
    assert row["time"].endswith("+00:00")
    assert row["mae"] == mae.__version__
    assert row["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert all(row["packages"].values())
    assert {"safetensors", "torchvision", "timm", "accelerate"} <= row["packages"].keys()
    assert row["processes"] == 2
    assert row["launcher"]["SLURM_JOB_ID"] == "77"
    assert row["host"] and row["cpu"] and row["cores"] >= 1
    assert row["gpus"] == [] and "\n" not in json.dumps(row)


def test_no_secret_and_no_command_line_is_noted(monkeypatch):
    for name in ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MASTER_PASSWORD"):
        monkeypatch.setenv(name, "hush-hush")
    monkeypatch.setattr("sys.argv", ["mae", "data.train=https://host/a.tar?signature=hush-hush"])
    assert "hush-hush" not in json.dumps(describe_start())


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    line = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def package(tmp_path):
    """A package in a work tree, committed."""
    folder = tmp_path / "tree" / "package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("one = 1\n")
    git(folder.parent, "init", "--quiet")
    git(folder.parent, "add", ".")
    git(folder.parent, "commit", "--quiet", "-m", "first")
    return folder


def test_the_commit_and_whether_the_code_is_that_of_the_commit(package):
    commit = git(package, "rev-parse", "HEAD")
    assert git_state(package) == {"commit": commit, "dirty": False}
    (package.parent / "results.csv").touch()  # no code of the commit
    assert git_state(package) == {"commit": commit, "dirty": False}
    (package / "__init__.py").write_text("one = 2\n")
    assert git_state(package) == {"commit": commit, "dirty": True}


def test_a_package_installed_inside_another_work_tree_has_no_commit(package):
    installed = package.parent / "environment" / "site-packages" / "mae"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    assert git_state(installed) is None


def test_outside_of_any_work_tree_there_is_no_commit(tmp_path):
    (tmp_path / "__init__.py").touch()
    assert git_state(tmp_path) is None


@pytest.mark.parametrize("git", [None, "#!/bin/sh\nexec sleep 60\n", "#!/bin/sh\nexit 128\n"])
def test_without_git_or_with_a_git_that_hangs_a_start_is_described_all_the_same(
    git, tmp_path, monkeypatch
):
    if git:
        (tmp_path / "git").write_text(git)
        (tmp_path / "git").chmod(0o755)
    monkeypatch.setattr(environment, "GIT_SECONDS", 0.2)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin" if git else str(tmp_path))
    began = time.monotonic()
    assert describe_start()["git"] is None
    assert time.monotonic() - began < 10
