"""The bad samples of a run: named once in quarantine.jsonl, counted, and not too many."""

import json
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from mae.base.errors import RunFailed
from mae.data.images import BadSample
from mae.data.manifest import Manifest


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
