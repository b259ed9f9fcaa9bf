"""TensorBoard: the rows and pictures of a run, in RUN/tensorboard."""

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mae.base.errors import UserError
from mae.config.sections import LogConfig
from mae.training.checkpoint.run import Run

FLUSH_SECONDS = 30


class TensorboardTracker:
    """Event files of one run folder, over all of its starts."""

    def __init__(self, run: Run, step: int) -> None:
        """What earlier starts have written after `step` is not shown any more."""
        self.folder = run.folder / "tensorboard"
        self.step = step
        self.writer = self._begin()

    def _begin(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder), purge_step=self.step + 1, flush_secs=FLUSH_SECONDS)

    def log(self, row: dict[str, Any], step: int) -> None:
        """The numbers of a row, by name; nothing for what is none."""
        self._reach(step)
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step" and math.isfinite(value):
                self.writer.add_scalar(name, value, step)

    def picture(self, name: str, path: Path, step: int) -> None:
        """A PNG file."""
        self._reach(step)
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self.writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()

    def _reach(self, step: int) -> None:
        """A step before the last one comes after a rollback: the curves are to go on from it."""
        if step < self.step:
            self.writer.close()
            self.step = step - 1
            self.writer = self._begin()
        self.step = step


def refuse_missing(config: LogConfig) -> None:
    """UserError where log.tensorboard needs what is not installed."""
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "log.tensorboard: needs the package tensorboard (pip install 'mae[tensorboard]')"
        )
