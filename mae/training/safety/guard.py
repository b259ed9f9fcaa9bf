"""Guard against skipped steps and loss spikes, and quarantine of unreadable images."""

import json
import math
import statistics
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from mae.base.errors import RunFailed, SampleError, StorageError
from mae.base.rows import append_row, read_rows, write_lines
from mae.config.sections import GuardConfig
from mae.data.images import BadSample, Images
from mae.data.manifest import Manifest
from mae.storage.remote import is_remote
from mae.training.meter import StepNumbers

HISTORY = 200
"""number of recent losses that a loss is compared with"""
SINCE = "readable_since"
"""entry of a row of quarantine.jsonl whose image was mended: the step it counts from"""
MIN_HISTORY = 30
"""smallest number of losses to compare with; no spikes before"""


class Spike(NamedTuple):
    """A step whose loss is an outlier."""

    step: int
    loss: float
    score: float
    """robust z-score against the losses before"""
    previous: int
    """the trained step before it"""


class SpikeDetector:
    """Detector of spikes: robust z-score of the loss against the last HISTORY losses.

    Median and median absolute deviation take the place of mean and standard deviation.
    """

    def __init__(self, threshold: float) -> None:
        """`threshold`: z-score above which a loss is a spike; 0: no spikes."""
        self.threshold = threshold
        self.losses: deque[tuple[int, float]] = deque(maxlen=HISTORY)
        """(step, loss)"""

    def evaluate(self, step: int, loss: float, previous: int | None = None) -> Spike | None:
        """Compare the loss of a step with the history; returns the spike, if it is one.

        Spikes and losses that are not finite are not added to the history.  `previous`: the
        trained step before this one; None: `step` - 1.
        """
        if not math.isfinite(loss):
            return None
        if self.threshold and len(self.losses) >= MIN_HISTORY:
            losses = [one for _, one in self.losses]
            middle = statistics.median(losses)
            deviation = 1.4826 * statistics.median(abs(one - middle) for one in losses)
            score = (loss - middle) / max(deviation, 1e-3 * abs(middle), 1e-12)
            if score > self.threshold:
                return Spike(step, loss, score, step - 1 if previous is None else previous)
        self.losses.append((step, loss))
        return None


class Rollback(Exception):
    """Request to return to an earlier checkpoint and skip the batches around a spike."""

    def __init__(self, spike: Spike) -> None:
        super().__init__(f"loss {spike.loss:.4g} at step {spike.step}")
        # The cause is the batch of this step, or the weights after the step before.
        self.skipped_steps = (spike.previous, spike.step)


class Guard:
    """Counter of skipped steps and detector of spikes; the same result on all processes."""

    def __init__(self, config: GuardConfig, skipped: int = 0) -> None:
        """`skipped`: number of steps that earlier starts of the run have skipped."""
        self.config = config
        self.skipped = skipped
        """number of steps skipped in all starts of the run"""
        self.skipped_here: list[int] = []
        """steps skipped in this start"""
        self.last: int | None = None
        """the last step evaluated"""
        self.consecutive_skipped = 0
        """number of steps skipped in a row, up to the last one"""
        self.spikes = SpikeDetector(config.spike)

    def evaluate(self, steps: list[StepNumbers]) -> tuple[list[int], list[Spike]]:
        """Return those of `steps` that were skipped, and those whose loss was a spike."""
        skipped, spikes = [], []
        for one in steps:
            self.consecutive_skipped = self.consecutive_skipped + 1 if one.skipped else 0
            if one.skipped:
                skipped.append(one.step)
            elif spike := self.spikes.evaluate(one.step, one.loss, self.last):
                spikes.append(spike)
            self.last = one.step
        self.skipped_here += skipped
        self.skipped += len(skipped)
        return skipped, spikes

    def rewind(self, step: int) -> None:
        """Discard what is known of the steps after `step`, which a rollback has undone."""
        undone = [one for one in self.skipped_here if one > step]
        self.skipped -= len(undone)
        self.skipped_here = self.skipped_here[: len(self.skipped_here) - len(undone)]
        self.consecutive_skipped = 0
        self.last = step
        kept = [one for one in self.spikes.losses if one[0] <= step]
        self.spikes.losses = deque(kept, maxlen=HISTORY)

    def exceeds_max_skipped(self) -> bool:
        """True where guard.max_skipped steps or more were skipped in a row."""
        return self.consecutive_skipped >= self.config.max_skipped

    def check(self, step: int) -> None:
        """Raise RunFailed where guard.max_skipped steps or more were skipped in a row."""
        if self.exceeds_max_skipped():
            raise RunFailed(
                f"step {step}: the last {self.consecutive_skipped} steps were skipped, their "
                "gradients not finite.  Resuming would end here again: lower the learning "
                "rate, inspect the data (mae inspect-batch shows the images of a step), or raise "
                "guard.max_skipped"
            )


class Quarantine:
    """Record of the unreadable images of a run, in quarantine.jsonl.

    Those of earlier starts are read again at the start, unless their shard is remote (that would
    download it): the row of one that is readable again gets `readable_since`, the step of this
    start, and it no longer counts.  From there on it is used where the order says so, as if it had
    never been bad; steps before keep the replacement that they were trained on.  So resuming stays
    a function of checkpoint, settings and readable data.

    Every process adds the images it met; `synchronize` shares them with all processes.
    """

    def __init__(
        self,
        file: Path,
        manifest: Manifest,
        max_bad: int,
        accelerator: Accelerator,
        images: Images | None = None,
        step: int = 0,
    ) -> None:
        """Read the images recorded by earlier starts of the run.  All processes call it.

        `max_bad`: data.max_bad, number of unreadable images that a run tolerates.  `images`: to
        read the recorded ones again with, at `step`.
        """
        self.file, self.manifest, self.max_bad = file, manifest, max_bad
        self.is_main = accelerator.is_main_process
        if self.is_main and images is not None:
            _release_readable(file, images, step)
        recorded = _recorded_samples(file, manifest) if self.is_main else None
        self.known: set[int] = set(broadcast_object_list([recorded])[0] or ())
        """numbers of the unreadable images that all processes know of"""
        self.pending: list[BadSample] = []

    def add(self, bad: list[BadSample]) -> None:
        """Add unreadable images that this process met."""
        self.pending += bad

    def synchronize(self, step: int) -> int:
        """Share and record new unreadable images; returns their number in the run so far.

        All processes call it.
        """
        for bad in sorted(set(gather_object(self.pending))):
            if bad.sample not in self.known:
                self.known.add(bad.sample)
                if self.is_main:
                    self._write(step, bad)
        self.pending = []
        return len(self.known)

    def write_local(self, step: int) -> None:
        """Record the images this process met without the others, before it saves alone."""
        for bad in sorted(set(self.pending)):
            if bad.sample not in self.known:
                self.known.add(bad.sample)
                self._write(step, bad)
        self.pending = []

    def exceeds_max_bad(self) -> bool:
        """True where there are more than data.max_bad; the same on all processes."""
        return len(self.known) > self.max_bad

    def check(self) -> None:
        """Raise RunFailed where there are more than data.max_bad."""
        if self.exceeds_max_bad():
            raise RunFailed(
                f"{len(self.known)} unreadable images, more than data.max_bad = {self.max_bad}: "
                f"{self.file} lists them.  Raise data.max_bad, or restore the shards as they were "
                "when indexed; the same command then continues"
            )

    def _write(self, step: int, bad: BadSample) -> None:
        manifest, sample = self.manifest, bad.sample
        row = {
            "sample": sample,
            "shard": manifest.shard_name(sample),
            "key": manifest.key(sample),
            "error": bad.reason,
            "step": step,
            "data": manifest.fingerprint,
            # Where its bytes are, for a look at it.
            "offset": int(manifest.offset[sample]),
            "bytes": int(manifest.size[sample]),
        }
        append_row(self.file, row)


def _recorded_samples(file: Path, manifest: Manifest) -> list[int]:
    """Read the sample numbers that the file lists for this data, and that still count as bad."""
    known: dict[int, None] = {}
    for row in read_rows(file).rows:
        sample = row.get("sample")
        if not manifest.is_recorded_as(str(row.get("data"))) or not isinstance(sample, int):
            continue  # the numbers of other data mean other images
        if 0 <= sample < len(manifest) and SINCE not in row:
            known[sample] = None
    return list(known)


def _release_readable(file: Path, images: Images, step: int) -> None:
    """Mark the rows of recorded images that are readable again."""
    manifest = images.manifest
    readable = set()
    for sample in _recorded_samples(file, manifest):
        if not is_remote(manifest.shards[manifest.shard_of(sample)]):
            with suppress(SampleError, StorageError):
                images[sample]
                readable.add(sample)
    if not readable:
        return
    found, lines = read_rows(file), []
    for row, line in zip(found.rows, found.lines, strict=True):
        is_own = manifest.is_recorded_as(str(row.get("data"))) and SINCE not in row
        is_mended = is_own and row.get("sample") in readable
        lines.append(json.dumps({**row, SINCE: step}).encode() if is_mended else line)
    write_lines(file, lines)
