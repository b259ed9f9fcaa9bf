"""Steps that were skipped, counted by number, and spikes of the loss."""

import json
import math
import statistics
from collections import deque
from pathlib import Path
from typing import NamedTuple

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from mae.base.errors import RunFailed
from mae.config.sections import GuardConfig
from mae.data.images import BadSample
from mae.data.manifest import Manifest
from mae.training.meter import StepNumbers

HISTORY = 200
ENOUGH = 30
"""steps before anything is called a spike"""


class Spike(NamedTuple):
    """A step whose loss stands out."""

    step: int
    loss: float
    score: float
    """deviations from the median of the steps before, robustly estimated"""
    before: int
    """the step that was done before it"""


class SpikeDetector:
    """Robust z-score of the loss against the last HISTORY steps (median, and deviation from it)."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.losses: deque[tuple[int, float]] = deque(maxlen=HISTORY)
        """(step, loss)"""

    def look(self, step: int, loss: float, before: int | None = None) -> Spike | None:
        """The spike, if this step's loss is one; it then does not count as history."""
        if not math.isfinite(loss):
            return None
        if self.threshold and len(self.losses) >= ENOUGH:
            losses = [one for _, one in self.losses]
            middle = statistics.median(losses)
            deviation = 1.4826 * statistics.median(abs(one - middle) for one in losses)
            score = (loss - middle) / max(deviation, 1e-3 * abs(middle), 1e-12)
            if score > self.threshold:
                return Spike(step, loss, score, step - 1 if before is None else before)
        self.losses.append((step, loss))
        return None


class Rollback(Exception):
    """The weights of some steps are to be forgotten, and their batches left out."""

    def __init__(self, spike: Spike) -> None:
        super().__init__(f"loss {spike.loss:.4g} at step {spike.step}")
        # High at this step: by its own batch, or by weights that the step before has spoilt.
        self.leave_out = (spike.before, spike.step)


class Guard:
    """Judges the numbers of the steps once they are known; all processes come to the same."""

    def __init__(self, config: GuardConfig, skipped: int = 0) -> None:
        """`skipped`: steps that earlier starts of the run have skipped."""
        self.config = config
        self.skipped = skipped
        self.own: list[int] = []
        """steps that were skipped since"""
        self.last: int | None = None
        self.in_a_row = 0
        self.spikes = SpikeDetector(config.spike)

    def judge(self, steps: list[StepNumbers]) -> tuple[list[int], list[Spike]]:
        """The steps among `steps` that were skipped, and those whose loss was a spike."""
        skipped, spikes = [], []
        for one in steps:
            self.in_a_row = self.in_a_row + 1 if one.skipped else 0
            if one.skipped:
                skipped.append(one.step)
            elif spike := self.spikes.look(one.step, one.loss, self.last):
                spikes.append(spike)
            self.last = one.step
        self.own += skipped
        self.skipped += len(skipped)
        return skipped, spikes

    def rewind(self, step: int) -> None:
        """Forget what came after `step`: it is undone."""
        undone = [one for one in self.own if one > step]
        self.skipped -= len(undone)
        self.own = self.own[: len(self.own) - len(undone)]
        self.in_a_row = 0
        self.last = step
        kept = [one for one in self.spikes.losses if one[0] <= step]
        self.spikes.losses = deque(kept, maxlen=HISTORY)

    def is_hopeless(self) -> bool:
        """More steps in a row were skipped than guard.max_skipped allows."""
        return self.in_a_row >= self.config.max_skipped

    def check(self, step: int) -> None:
        """RunFailed where it is hopeless."""
        if self.is_hopeless():
            raise RunFailed(
                f"step {step}: the last {self.in_a_row} steps were skipped, their gradients not "
                "finite.  Going on would end here again: lower the learning rate, look at the "
                "data (mae inspect-batch shows a step's), or raise guard.max_skipped"
            )


class Quarantine:
    """All processes note what they meet; `settle` makes it known to all of them."""

    def __init__(
        self, file: Path, manifest: Manifest, max_bad: int, accelerator: Accelerator
    ) -> None:
        """Read what earlier starts of the run met.  All processes call it."""
        self.file, self.manifest, self.max_bad = file, manifest, max_bad
        self.is_main = accelerator.is_main_process
        found = _known(file, manifest.fingerprint) if self.is_main else None
        self.known: set[int] = set(broadcast_object_list([found])[0] or ())
        self.pending: list[BadSample] = []

    def note(self, bad: list[BadSample]) -> None:
        """Remember what this process met."""
        self.pending += bad

    def settle(self, step: int) -> int:
        """Share and write down what is new: how many different bad samples there are by now.

        All processes call it.
        """
        for bad in sorted(set(gather_object(self.pending))):
            if bad.sample not in self.known:
                self.known.add(bad.sample)
                if self.is_main:
                    self._write(step, bad)
        self.pending = []
        return len(self.known)

    def write_own(self, step: int) -> None:
        """Write down what this process met, without the others: before it saves alone."""
        for bad in sorted(set(self.pending)):
            if bad.sample not in self.known:
                self.known.add(bad.sample)
                self._write(step, bad)
        self.pending = []

    def is_full(self) -> bool:
        """There are more than data.max_bad; all processes come to the same."""
        return len(self.known) > self.max_bad

    def check(self) -> None:
        """RunFailed where there are more than data.max_bad."""
        if self.is_full():
            raise RunFailed(
                f"{len(self.known)} unreadable images, more than data.max_bad = {self.max_bad}: "
                f"{self.file} names them.  Raise data.max_bad, or mend the shards and begin anew"
            )

    def _write(self, step: int, bad: BadSample) -> None:
        row = {
            "sample": bad.sample,
            "shard": self.manifest.shard_name(bad.sample),
            "key": self.manifest.key(bad.sample),
            "error": bad.reason,
            "step": step,
            "data": self.manifest.fingerprint,
        }
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")


def _known(file: Path, fingerprint: str) -> list[int]:
    """Samples of this data that the file names.

    A line that a kill has cut off is passed over, and ended.
    """
    text = file.read_text() if file.exists() else ""
    if text and not text.endswith("\n"):
        with file.open("a") as rest:
            rest.write("\n")
    known = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
            if row["data"] == fingerprint:  # the numbers of other data mean other images
                known.append(int(row["sample"]))
        except (ValueError, KeyError, TypeError):
            continue
    return known
