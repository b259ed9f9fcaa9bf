"""Processes with mounts of their own: read-only folders, small file systems."""

import subprocess
from pathlib import Path

import pytest


def run_with_mounts(
    mounts: str, words: list[str], cwd: Path, env: dict[str, str], timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a command after the shell lines `mounts`, which no other process notices.

    Skips the test where this machine permits no mounts.
    """
    shell = ["unshare", "--mount", "sh", "-e", "-c"]
    try:
        trial = subprocess.run([*shell, mounts], capture_output=True, text=True, timeout=timeout)
    except FileNotFoundError:
        pytest.skip("no `unshare` here")
    if trial.returncode:
        pytest.skip(f"no mounts of one's own here: {trial.stderr.strip()}")
    return subprocess.run(
        [*shell, f'{mounts}\nexec "$@"', "sh", *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env=env,
    )
