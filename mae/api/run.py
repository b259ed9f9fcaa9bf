"""A training run in Python: its state, settings, numbers, model, report and exports."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae.api.settings import as_call
from mae.base.errors import UserError
from mae.base.files import run_folder
from mae.config.loading import recorded_config
from mae.config.sections import Config
from mae.report.run_record import Record, State, read_record, state

if TYPE_CHECKING:
    from mae.api.encoder import Encoder


class Run:
    """Folder of a training run, as `mae.train` and `mae pretrain` write it.

    ```python
    run = mae.Run("runs/tiles")
    run.state            # finished, running, stopped, failed or not started
    run.figures["loss"]  # the last row of metrics
    encoder = run.load()
    ```

    It reads the folder anew at each use, so it may be that of a run that another process trains.
    Commands and functions that take the path of a run take a `Run`, too.

    Attributes:
        path: the run folder.
    """

    path: Path

    def __init__(self, path: str | Path) -> None:
        """Open the folder of a run, or of one of its checkpoints.

        Raises:
            UserError: where there is no run.
        """
        self.path = run_folder(Path(path).expanduser())
        if not (self.path / "config.yaml").exists():
            raise UserError(f"{path}: no run here (no config.yaml)")

    @property
    def config(self) -> Config:
        """Settings that the run recorded, by section: `run.config.train.epochs`."""
        return recorded_config(self.path)

    @property
    def state(self) -> str:
        """One of finished, running, stopped, failed, not started.

        "running" also of a run that was killed a short time ago.
        """
        return self._state().word

    @property
    def finished(self) -> bool:
        """True where all steps are done: the model is the final one."""
        return self.state == "finished"

    @property
    def step(self) -> int:
        """Optimizer steps that are recorded."""
        return self._state().step

    def metrics(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl, in the order of their steps: `pandas.DataFrame(run.metrics())`.

        Each has `step`, `epoch` (fractional), `loss`, `lr` and `images_per_second`, and the
        columns that the objective adds, such as `r2` of masked autoencoding.
        """
        return [dict(row) for row in self._record().metrics]

    @property
    def figures(self) -> dict[str, Any]:
        """Last numbers: the last row of `metrics`, and further ones by name.

        `held_out`: the last evaluation on data.val during training; `evaluation`, `probe`, `knn`
        and so on: the files that `mae evaluate`, `mae probe`, `mae knn` left in the run folder.
        """
        record = self._record()
        last = dict(record.metrics[-1]) if record.metrics else {}
        held_out = {"held_out": dict(record.health[-1])} if record.health else {}
        return {**last, **held_out, **{k: dict(row) for k, row in record.evaluations.items()}}

    def load(self, device: str = "auto") -> Encoder:
        """Load the model of the newest intact checkpoint; the same as `mae.load(run)`.

        Raises:
            UserError: where there is no checkpoint yet.
        """
        from mae.api.encoder import load

        return load(self.path, device=device)

    def report(self, out: str | Path | None = None) -> Path:
        """Write the run as one HTML page, as `mae report` does; returns its path.

        Args:
            out: the file (default: report.html in the run folder).

        Raises:
            UserError: where it cannot be written.
        """
        from mae.report.page import write_report

        return write_report(self.path, Path(out) if out else self.path / "report.html")

    def export(
        self,
        out: str | Path | None = None,
        format: str | None = None,
        *,
        pool: str | None = None,
        img_size: int | tuple[int, int] | None = None,
        images: str | Path | None = None,
    ) -> Path:
        """Export the model for another library, as `mae export` does; returns the new folder.

        What is written is loaded again, in a fresh process, by the library that it is for, and
        compared with the model.  Prints the code that loads it.

        Args:
            out: new folder (default: `export` in the run folder).
            format: `timm`, `onnx`, `torch`, `plain`, or one of the objective's own, such as
                `transformers` (default: timm for encoders of timm's).
            pool: vector for an image: `token`, the class token, or `avg`, the mean of the patch
                tokens.
            img_size: side, or height and width, in pixels (default: that of training).
            images: images or shards to check the export on (default: the run's).

        Raises:
            UserError: where the folder exists, or the model has no such format.
            RunFailed: where the export computes something else; nothing is left then.
        """
        from mae.commands import export

        commands = argparse.ArgumentParser().add_subparsers()
        export.add_parser(commands)
        folder = Path(out) if out else self.path / "export"
        args = commands.choices["export"].parse_args(["--", str(self.path), str(folder)])
        if pool not in (None, "token", "avg"):
            raise UserError(f"pool: {pool!r}: token or avg")
        args.format, args.pool = format, pool
        args.img_size = (img_size, img_size) if isinstance(img_size, int) else img_size
        args.images = None if images is None else [str(images)]
        try:
            export.run(args)
        except UserError as error:
            raise as_call(error) from None
        return folder

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        record = self._record()
        now = state(record, time.time())
        of = f" of {now.steps:,}" if now.steps else ""
        last = record.metrics[-1] if record.metrics else {}
        shown = [one.key for one in record.declared.metrics] if record.declared else []
        keys = ["loss", *shown]
        found = [f"{key} {last[key]:.4g}" for key in keys if isinstance(last.get(key), float)]
        return f"Run({', '.join([f'{self.path}: {now.word}', f'step {now.step:,}{of}', *found])})"

    def _record(self) -> Record:
        return read_record(self.path)

    def _state(self) -> State:
        return state(self._record(), time.time())
