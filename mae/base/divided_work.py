"""Work divided among processes: results of its parts, each a file until one process joins them.

The parts lie in a folder that all processes see, so that a launcher starts them, or a job array,
one by one and at any time.  A command that was killed goes on: parts that are there are not done
again, by any number of processes.
"""

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from mae.base.errors import RunFailed, StorageError, UserError
from mae.base.files import discard, link_new, read_json, sync, write_json
from mae.base.parts_folder import (
    DRAINED,
    SHARED,
    array_counts,
    enter_array,
    is_seen,
    parts_folder,
    parts_path,
    remove,
    require_agreement,
)
from mae.base.portion import Portion
from mae.base.progress import Progress, ShownWork

MOST_PARTS = 4096
"""maximum number of parts that `part_sizes` makes, each a file of one folder"""
DIGEST = 32
"""length of the checksum before a result, in bytes"""
TAG = 8
"""length of the plan's checksum in names of results"""
SHOWN = 5
"""maximum number of tasks that a message names"""
LIST_SECONDS = 2.0
"""seconds between two counts of the finished parts; more where a count takes long"""
TAKEN_OVER = 16
"""parts of other tasks that a task does before it looks again which are missing"""

Work = Callable[[Sequence[int]], Iterable[tuple[int, bytes]]]
"""numbers of parts → (number, result) of each, in any order"""
Outdated = Callable[[Iterable[tuple[int, bytes]]], Iterable[int]]
"""(number, result) of parts of an earlier attempt → numbers of those that must be done again"""


class DividedWork:
    """Parts of one piece of work: this process's own, and those of all."""

    def __init__(self, folder: Path, plan: str, portion: Portion) -> None:
        self.folder, self.portion = folder, portion
        self.tag = hashlib.sha256(plan.encode("utf-8", "surrogateescape")).hexdigest()[:TAG]
        """part of the names of results: a late task of another plan may have left some"""

    def do(
        self,
        name: str,
        sizes: Sequence[int],
        work: Work,
        show: Progress,
        *,
        needs_all: bool = False,
    ) -> None:
        """Do this process's parts of those named `name` that are not there yet, then meet.

        `sizes`: size of each part, in the unit of `show`, which the first process calls with the
        sizes that are done and those of all, a task with those of its own.  `needs_all`: a task of
        a job array goes on with the parts of other tasks, until all are there.  Raises RunFailed
        where another process of the launch has stopped, UserError where a join lacks parts.
        """
        own = self.portion.own(len(sizes))
        counted = own if self.portion.is_task and not needs_all else range(len(sizes))
        total, shown, next_count = sum(sizes[number] for number in counted), -1, 0.0

        def count(at_once: bool = False) -> None:
            nonlocal next_count, shown
            start = time.monotonic()
            if self.portion.reports and (at_once or start >= next_count):
                done = total - sum(sizes[number] for number in self._missing(name, counted))
                if done != shown:
                    show(done, total)
                end = time.monotonic()
                next_count, shown = end + max(LIST_SECONDS, 20 * (end - start)), done

        def finish(numbers: Sequence[int]) -> None:
            for number, result in work(numbers) if numbers else ():
                self._write(name, number, result)
                count()

        # A part may take long: its time is shown meanwhile.
        with show if isinstance(show, ShownWork) and self.portion.reports else nullcontext():
            count(at_once=True)
            finish(self._missing(name, own))
            if self.portion.is_task and needs_all:
                following = (*range(own.stop, len(sizes)), *range(own.stop))
                while missing := self._missing(name, following):
                    finish(missing[:TAKEN_OVER])
            elif self.portion.is_join:
                self._require_all(name, len(sizes))
            self.portion.meet(count)
            count(at_once=True)

    def drop_outdated(self, name: str, parts: int, find: Outdated) -> None:
        """Delete parts of an earlier attempt that `find` names, or that are damaged.

        This process's own are looked at, those of all tasks in the one that joins a job array,
        which raises UserError where it deletes one.
        """
        own = range(parts) if self.portion.is_join else self.portion.own(parts)
        missing = set(self._missing(name, own))
        present = [number for number in own if number not in missing]

        def whole() -> Iterator[tuple[int, bytes]]:
            for number in present:
                if (result := self._read(name, number)) is None:
                    discard(self._file(name, number))
                else:
                    yield number, result

        for number in find(whole()):
            discard(self._file(name, number))
        if self.portion.is_join and present:
            self._require_all(name, parts, "missing, or of data that has changed since")

    def results(self, name: str, count: int, first: int = 0) -> Iterator[bytes]:
        """Results of the parts `first` to `count` - 1.

        Raises RunFailed for damaged parts, all of which are deleted, and absent ones.
        """
        for number in range(first, count):
            result = self._read(name, number)
            if result is None:
                raise self._damaged(name, range(number, count))
            yield result

    def head(self, name: str, number: int, size: int) -> bytes:
        """First bytes of a result, at most `size`, which are not checked."""
        with self._file(name, number).open("rb") as file:
            file.seek(DIGEST)
            return file.read(size)

    def drained(self, name: str) -> tuple[int, dict[str, Any]]:
        """Number of the first parts that were drained, and the state recorded with them."""
        known = read_json(self._drained_file(name))
        return known.get("parts", 0), known.get("state", {})

    def drain(self, name: str, parts: int, state: dict[str, Any]) -> None:
        """Delete the first `parts` parts, of which all is on disk elsewhere, as `state` describes.

        They count as done, so that a large result is not on disk twice while it is joined.
        """
        before, _ = self.drained(name)
        write_json(self._drained_file(name), {"parts": parts, "state": state})
        sync(self._drained_file(name))
        for number in range(before, parts):
            discard(self._file(name, number))

    def forget_drained(self, name: str) -> None:
        """Drained parts are to be done again."""
        discard(self._drained_file(name))

    def require_empty(self, out: Path) -> None:
        """Raise UserError, in all processes, where another command has just filled `out`."""
        if self.portion.gather(out.exists() and any(out.iterdir()))[0]:
            raise UserError(f"{out}: was just written by another command")

    def once(self, name: str, compute: Callable[[], bytes]) -> bytes:
        """Result of `compute`, which the first process calls while the others wait.

        Also the result of an earlier attempt, or of another task, where there is one.
        """
        if self.portion.reports and not self._file(name, 0).exists():
            self._write(name, 0, compute(), replaces=False)
        self.portion.meet()
        result = self._read(name, 0)
        if result is None:
            raise self._damaged(name, range(1))
        return result

    def forget(self, name: str, number: int) -> None:
        """Delete a part, so that the same command does it again."""
        discard(self._file(name, number))

    def _file(self, name: str, number: int) -> Path:
        return self.folder / f"{name}-{self.tag}-{number:06d}"

    def _drained_file(self, name: str) -> Path:
        return self.folder / f"{name}.{DRAINED}"

    def _missing(self, name: str, numbers: Sequence[int]) -> list[int]:
        """Those of `numbers` whose parts are not there."""
        start = f"{name}-{self.tag}-"
        present = {
            int(entry.name.removeprefix(start))
            for entry in os.scandir(self.folder)
            if entry.name.startswith(start) and entry.name.removeprefix(start).isdecimal()
        }
        drained, _ = self.drained(name)
        return [number for number in numbers if number >= drained and number not in present]

    def _require_all(self, name: str, parts: int, fault: str = "missing") -> None:
        """Raise UserError, naming the tasks of the job array, where parts are missing."""
        missing = self._missing(name, range(parts))
        if not missing:
            return
        tasks = [
            [
                f"--part {task + 1}/{count}"
                for task in range(count)
                if not set(Portion(task, count, is_task=True).own(parts)).isdisjoint(missing)
            ]
            for count in array_counts(self.folder)
        ]
        how = "without --join"
        if tasks:
            named = min(tasks, key=len)
            more = f" and {len(named) - SHOWN:,} more" if len(named) > SHOWN else ""
            how = f"with {', '.join(named[:SHOWN])}{more}, then --join again"
        raise UserError(
            f"{self.folder}: {len(missing):,} of {parts:,} parts are {fault}: run the same command "
            f"{how}"
        )

    def _write(self, name: str, number: int, result: bytes, *, replaces: bool = True) -> None:
        """Write a result whole; without `replaces` one that is there stays, as others read it."""
        file = self._file(name, number)
        part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
        try:
            part.write_bytes(hashlib.sha256(result).digest() + result)
            if replaces:
                part.replace(file)
            else:
                link_new(part, file)
        except FileNotFoundError:  # not made again: nobody would join it
            raise UserError(f"{self.folder}: was joined, or deleted, meanwhile") from None
        finally:
            discard(part)

    def _read(self, name: str, number: int) -> bytes | None:
        """A result; None where it is damaged."""
        file = self._file(name, number)
        if not is_seen(file.exists):
            raise RunFailed(f"{file}: written by another process, but not seen here: {SHARED}")
        content = file.read_bytes()
        digest, result = content[:DIGEST], content[DIGEST:]
        return result if hashlib.sha256(result).digest() == digest else None

    def _damaged(self, name: str, numbers: Sequence[int]) -> UserError | RunFailed:
        """Error that says what to do, once the damaged ones of some parts are deleted."""
        damaged = [number for number in numbers if self._read(name, number) is None]
        for number in damaged:
            discard(self._file(name, number))
        if self.portion.is_join:
            try:
                self._require_all(name, numbers[-1] + 1)
            except UserError as error:
                return error
        first = self._file(name, damaged[0])
        return RunFailed(
            f"{first}: damaged, as {len(damaged):,} in all, which were deleted: run the same "
            "command again"
        )


@contextmanager
def divided_work(
    out: Path, plan: str, portion: Portion, log: Callable[[str], None]
) -> Generator[DividedWork]:
    """Divided work that makes `out`, in the folder `.NAME.parts` beside it.

    `plan`: everything that determines the parts; parts of another plan are deleted, or refused in a
    job array.  At the end of the block, where the processes meet, the folder is deleted; after an
    error it is kept, so that the same command resumes.  One process, or launch, at a time: others
    wait.  So look again in the block for what it makes: another may have made it meanwhile.

    Raises UserError where the folder cannot be written, not all processes see it, or their plans
    differ; RunFailed where another process of the launch has stopped.
    """
    folder = parts_path(out)
    try:
        if portion.is_task:
            enter_array(folder, plan, portion.count)
            yield DividedWork(folder, plan, portion)
            return
        with parts_folder(folder, plan, portion, log):
            require_agreement(folder, plan, portion)
            yield DividedWork(folder, plan, portion)
            portion.meet()  # others may still read what the first has written
            if portion.joins:
                remove(folder)
    except OSError as error:
        if not str(error.filename or folder).startswith(str(folder)):
            raise  # not of this work's own files
        raise StorageError(f"{out}: cannot be written: {error.strerror or error}") from None


def part_sizes(total: int, unit: int) -> list[int]:
    """Sizes of at most MOST_PARTS parts of `total`, multiples of `unit` but for the last."""
    size = unit * max(1, -(-total // (unit * MOST_PARTS)))
    return [min(size, total - start) for start in range(0, total, size)]
