"""Start of a run, whatever its objective; torch is imported once the settings are valid."""

import os
import sys
from collections.abc import Callable

from mae.base.device import idle_gpus
from mae.base.launch import check_launch
from mae.base.progress import shown_imports
from mae.config.sections import Config
from mae.training.safety.lifecycle import RunLifecycle


def start(load: Callable[[], Config], is_dry: bool = False) -> int:
    """Train the run whose settings `load` returns, or with `is_dry` only do a dry run.

    Returns the exit code: 0 done, 1 failed, 2 wrong use, 75 stopped early.
    """
    lifecycle = RunLifecycle()

    def work() -> None:
        from mae.pack.packed_folders import settled_folders

        check_launch(os.environ)
        with settled_folders():
            train_here(load(), lifecycle, is_dry)

    return lifecycle.execute(work)


def train_here(config: Config, lifecycle: RunLifecycle, is_dry: bool = False) -> None:
    """Train a run in this process, after packing its folders.  Raises as `train`."""
    with shown_imports():  # of torch: not needed to report a misspelt setting
        from torch import distributed

        from mae.training.folders import prepare_folders
        from mae.training.train import destroy_process_group, train

    prepare_folders(config)
    if not config.train.num_processes and (line := idle_gpus()):
        print(line, file=sys.stderr)
    has_group = distributed.is_available() and distributed.is_initialized()
    train(config, lifecycle, is_dry)
    if not has_group:  # of the program that calls this
        destroy_process_group()
