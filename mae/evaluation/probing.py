"""Probes that train a head on a frozen encoder: their request, settings and run folders."""

import argparse
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import nn

from mae.base.errors import UserError
from mae.base.exit_status import DONE, STATUS_FILE, read_exit_status
from mae.base.portion import Portion
from mae.base.rows import read_rows
from mae.config.sections import Config
from mae.config.validation import changed_settings
from mae.data.images import Images
from mae.data.manifest import Manifest, labels_digest
from mae.data.training_data import TrainingSource
from mae.evaluation.encoders import UNTRAINED, FrozenEncoder, LoadedEncoder
from mae.objectives.base import Objective
from mae.objectives.shared_sections import classes_of
from mae.pretrained_weights.opened import absolute_source
from mae.training.checkpoint.checkpoint_files import newest_checkpoint
from mae.training.checkpoint.run import Run

ENDS_DIFFERENTLY = ("train.epochs",)
"""settings that may change when a run is resumed, but define a different probe"""


T = TypeVar("T")


class Fit(Protocol):
    """Training of the run of a probe."""

    def __call__(
        self, config: Config, source: TrainingSource | None = None, followed_by: Path | None = None
    ) -> Objective:
        """Train or resume the run that `config` describes; return the trained objective.

        `source`: samples other than those of data.train.  `followed_by`: folder of the probe's
        next run, which builds on this one.  Called by all processes.
        """
        ...


class PlannedSchedule(NamedTuple):
    """Schedule of a run, before it begins."""

    steps: int
    lr: float
    """the peak, after warm-up"""
    batch_size: int
    """images per step, over all processes"""
    device_batch: int
    """images per micro-batch of one process"""


@dataclass(frozen=True, kw_only=True)
class EncoderComparison:
    """Encoders to be compared, and the labelled images to do it on."""

    opened: LoadedEncoder
    encoders: dict[str, FrozenEncoder]
    """encoders by name: that of RUN first, then with --baselines the untrained one"""
    modules: dict[str, nn.Module]
    """modules of the encoders, on the CPU"""
    train: Images
    test: Images
    seen: int
    """test images that are, byte for byte, in train"""
    folder: Path
    """folder of the results"""
    patch_size: tuple[int, int] | None
    """height and width of a patch token in pixels; None: the encoder has no patch tokens"""
    matched: str
    """line on how the classes of test and train were matched; "": by the same names"""


@dataclass(frozen=True, kw_only=True)
class ProbeRequest(EncoderComparison):
    """Request for a probe: options, encoders, images.  The same on all processes."""

    options: argparse.Namespace
    """the command line"""
    device: str
    """device of this process"""
    portion: Portion
    """portion of this process in what is divided; the first one reports and logs"""
    fit: Fit
    plan: Callable[[Config, int], PlannedSchedule]
    """(config, number of samples) → schedule of a run on one process"""
    log: Callable[[str], None]

    @contextmanager
    def on_device(self, name: str) -> Iterator[None]:
        """The encoder `name` on the device of this process, for the block."""
        module = self.modules[name].to(self.device)
        yield
        module.to("cpu")

    def data_settings(self, encoder: FrozenEncoder) -> dict[str, Any]:
        """Section `data:`: images of --train, read as the encoder's run reads its own."""
        data = self.opened.config.data
        return {
            **data.model_dump(mode="json"),
            "train": list(self.options.train),
            "mixture": (),
            "val": (),
            "order": "global" if data.order == "global" else "window",
            "repeats": 1,
            "own_statistics": False,
            "crop_on_device": False,
            "decode_on_device": False,
            "img_size": encoder.img_size,
            "workers": self.options.workers,
        }

    def model_settings(self, encoder: FrozenEncoder, labels: Sequence[int]) -> dict[str, Any]:
        """Section `model:` as all probes share it; `labels`: the different labels of --train."""
        return {
            "encoder": str(absolute_source(self.options.run)),
            **self.given,
            "untrained": encoder.name == UNTRAINED,
            "sha256": encoder.sha256,
            **classes_of(list(labels)),
        }

    @property
    def given(self) -> dict[str, Any]:
        """Options that the user gave for weights that do not record their settings."""
        names = ("num_heads", "mean", "std")
        values = {name: getattr(self.options, name, None) for name in names}
        return {name: value for name, value in values.items() if value}

    def log_settings(self) -> dict[str, Any]:
        """Section `log:`: the trackers of the encoder's run."""
        log, is_run = self.opened.config.log, self.opened.step is not None
        return {
            "trackers": list(log.trackers) if is_run else [],
            "project": log.project,
            "panel_every": 0,
            "health_every": 0,
        }


def on_first(portion: Portion, work: Callable[[], T]) -> T:
    """Result of `work`, called in the first process; its UserError is raised in all of them."""
    found, problem = None, ""
    if portion.joins:
        try:
            found = work()
        except UserError as error:
            problem = str(error)
    found, problem = portion.gather((found, problem))[0]
    if problem:
        raise UserError(problem)
    return found


def claim_folder(
    config: Config,
    manifest: Manifest,
    followed_by: Path | None = None,
    log: Callable[[str], None] = print,
) -> None:
    """Remove a finished probe of other settings, encoder or data from `config.output`.

    A probe that this one resumes stays.  Raises UserError where an unfinished probe of other
    settings, encoder or data is there, or in `followed_by`.
    """
    run = Run(config.output)
    if not run.config_file.exists():
        return  # new, or not a run: `Run.check` refuses it
    old = run.config()
    fixed, free = changed_settings(old, config)
    lines = [*(line for line in free if line.startswith(ENDS_DIFFERENTLY)), *fixed]
    found = newest_checkpoint(run.checkpoints)
    if found and not manifest.is_recorded_as(found.state.data):
        short = (one[:16] for one in (found.state.data, manifest.fingerprint))
        lines.append("training data: " + " → ".join(short))
    before, now = run.last_start().get("labels"), labels_digest(manifest)
    if before and before != now:
        lines.append(f"training labels: {before[:16]} → {now[:16]}")
    if not lines:
        return
    for one in (run, *([Run(followed_by)] if followed_by else [])):
        word = read_exit_status(one.folder / STATUS_FILE)
        if one.config_file.exists() and (word is None or word.code != DONE):
            key, _, values = lines[0].removeprefix("train.").partition(": ")
            before, _, now = values.partition(" → ")
            raise UserError(
                f"{one.folder}: an unfinished probe with another {key} ({before}, not {now}): go "
                "back to that, or delete the folder to start over"
            )
    log(f"{run.folder}: held a finished probe with another {lines[0]}: started over")
    doomed = run.folder.rename(run.folder.with_name(f"{run.folder.name}.{secrets.token_hex(4)}"))
    shutil.rmtree(doomed, ignore_errors=True)


def replaced_images(folder: Path, manifest: Manifest) -> list[str]:
    """Errors of the unreadable training images of the run in `folder`, which were replaced."""
    rows = read_rows(Run(folder).quarantine_file).rows
    own = {
        row["sample"]: str(row.get("error"))
        for row in rows
        if manifest.is_recorded_as(str(row.get("data"))) and isinstance(row.get("sample"), int)
    }
    return [own[sample] for sample in sorted(own)]
