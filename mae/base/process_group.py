"""Process group of a launch: its processes listed and killed from outside, orphans included."""

import os
import time
from contextlib import suppress
from pathlib import Path

import psutil

from mae.base.local_launch import split_processes

MARK = "MAE_SUPERVISED"
"""environment variable that every process of the group inherits, also where its parent has died"""


class ProcessGroup:
    """Processes whose environment holds the same mark."""

    def __init__(self) -> None:
        self.mark = f"{os.getpid()}-{time.time_ns()}"

    def environment(self) -> dict[str, str]:
        """Environment to start the group's first process with."""
        return os.environ | {MARK: self.mark}

    def members(self) -> list[psutil.Process]:
        """Living processes of the group, without zombies (they have no environment)."""
        members = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self.mark:
                    members.append(process)
        return members

    def training_processes(self) -> list[psutil.Process]:
        """Members that train, without launchers and data workers."""
        training = [process for process in self.members() if _is_training(process)]
        pids = {process.pid for process in training}
        # Forked data workers have the command line of their parent, which ends them itself.
        return [process for process in training if _parent(process) not in pids]

    def kill(self, patience: float = 30.0) -> list[int]:
        """Kill all members; returns the ids of those still alive after `patience` seconds."""
        deadline = time.monotonic() + patience
        while members := self.members():
            for process in members:
                with suppress(psutil.Error):
                    process.kill()
            if time.monotonic() > deadline:
                return [process.pid for process in members]
            time.sleep(0.05)
        return []


def _is_training(process: psutil.Process) -> bool:
    """True for `python … -m mae.pretrain …`, `mae pretrain …` and the same with finetune.

    With --processes it is a launcher.
    """
    try:
        words = process.cmdline()[1:]
    except psutil.Error:
        return False
    while words and words[0].startswith("-") and words[0] not in ("-m", "-c"):
        words = words[2 if words[0] in ("-W", "-X") else 1 :]
    if split_processes(words)[1] is not None:
        return False
    return (
        words[:2] in (["-m", "mae.pretrain"], ["-m", "mae.finetune"])
        or words[:3] in (["-m", "mae", "pretrain"], ["-m", "mae", "finetune"])
        or (words[1:2] in (["pretrain"], ["finetune"]) and Path(words[0]).name == "mae")
    )


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None
