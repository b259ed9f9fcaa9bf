"""All processes of a launch, found and ended from outside, orphans included."""

import os
import time
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "MAE_SUPERVISED"
"""environment that all of them inherit: the parent of a process may be gone, its mark is not"""


class ProcessGroup:
    """The processes that carry one mark."""

    def __init__(self) -> None:
        self.mark = f"{os.getpid()}-{time.time_ns()}"

    def environment(self) -> dict[str, str]:
        """What to start the first of them with."""
        return os.environ | {MARK: self.mark}

    def members(self) -> list[psutil.Process]:
        """Those that live; a zombie has no environment any more."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self.mark:
                    found.append(process)
        return found

    def training(self) -> list[psutil.Process]:
        """Those that run mae.pretrain itself, without launchers and without their workers."""
        training = [process for process in self.members() if _is_training(process)]
        pids = {process.pid for process in training}
        # Workers, forked, look like the process that trains, which ends them itself.
        return [process for process in training if _parent(process) not in pids]

    def kill(self, patience: float = 30.0) -> list[int]:
        """Kill all; the pids that are still there after `patience` seconds."""
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
    """`python … -m mae.pretrain …` or `mae pretrain …`, or the same of finetune."""
    try:
        words = process.cmdline()[1:]
    except psutil.Error:
        return False
    while words and words[0].startswith("-") and words[0] not in ("-m", "-c"):
        words = words[2 if words[0] in ("-W", "-X") else 1 :]
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
