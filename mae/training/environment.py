"""Environment of a start, recorded in starts.jsonl: code, packages, hardware, launcher."""

import os
import platform
import socket
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import mae
from mae.base.device import usable_cores
from mae.base.launch import typed_text

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "accelerate",
    "safetensors",
    "numpy",
    "simplejpeg",
    "pillow",
    "webdataset",
)
"""packages whose versions are recorded"""
VARIABLES = (
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "ACCELERATE_MIXED_PRECISION",
    "ACCELERATE_DYNAMO_BACKEND",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "NCCL_SOCKET_IFNAME",
    "NCCL_IB_DISABLE",
    "NCCL_P2P_DISABLE",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "SLURM_JOB_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_JOB_NODELIST",
    "SLURM_NNODES",
)
"""environment variables that are recorded: of launchers, devices, threads and memory; never all of
them, as others may hold secrets"""

GIT_SECONDS = 2.0
"""timeout of a git command"""


def describe_start() -> dict[str, Any]:
    """Describe this start as a JSON object; unknown values are None."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": typed_text(os.environ),
        "folder": str(Path.cwd()),
        "mae": mae.__version__,
        "git": git_state(Path(mae.__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda,
        "driver": _driver(),
        "gpus": _gpus(),
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "launcher": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def git_state(package: Path) -> dict[str, Any] | None:
    """Commit of the package, and whether tracked files differ; None outside a git work tree.

    A package that lies in a work tree without being tracked, as in a virtual environment inside
    another repository, has none.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    """Version of NVIDIA's kernel module, read from /proc; None: unknown."""
    try:
        for word in Path("/proc/driver/nvidia/version").read_text().split():
            if word[0].isdigit() and "." in word:
                return word
    except OSError:
        pass
    return None


def _gpus() -> list[dict[str, Any]]:
    """Names and memory of the GPUs that this process can use."""
    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [{"name": gpu.name, "gigabytes": round(gpu.total_memory / 1e9, 1)} for gpu in found]


def _cpu_model() -> str | None:
    if sys.platform == "linux":
        try:
            for line in Path("/proc/cpuinfo").read_text().splitlines():
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
        except OSError:
            pass
    return platform.processor() or None
