"""TensorBoard backend: metrics and pictures of a run in RUN/tensorboard."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mae.training.checkpoint.run import Run

FLUSH_SECONDS = 30
"""seconds between two writes to disk"""


class TensorboardTracker:
    """Event files of a run folder, continued by every start of the run."""

    def __init__(self, run: Run, step: int) -> None:
        """Continue after `step`; TensorBoard hides later values of earlier starts."""
        self.folder = run.folder / "tensorboard"
        self.step = step
        self.writer = self._begin()

    def _begin(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder), purge_step=self.step + 1, flush_secs=FLUSH_SECONDS)

    def log(self, row: dict[str, Any], step: int) -> None:
        """Log the finite numbers of a row by name; other values are ignored."""
        self._reach(step)
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step" and math.isfinite(value):
                self.writer.add_scalar(name, value, step)

    def log_picture(self, name: str, path: Path, step: int) -> None:
        """Log a PNG file."""
        self._reach(step)
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self.writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close the event file."""
        self.writer.close()

    def _reach(self, step: int) -> None:
        """Open a new event file after a rollback, so that the curves continue from `step`."""
        if step < self.step:
            self.writer.close()
            self.step = step - 1
            self.writer = self._begin()
        self.step = step
