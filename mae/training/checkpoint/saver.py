"""Checkpoint saver: background writes, retention, errors shared by all processes."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from torch import nn
from torch.optim import Optimizer

from mae.base.errors import RunFailed
from mae.base.files import discard
from mae.training.checkpoint.average import MovingAverage
from mae.training.checkpoint.checkpoint_files import (
    DAMAGED_SUFFIX,
    TrainingState,
    checkpoints,
    is_intact,
    remove,
    reserve,
    step_of,
    write_checkpoint,
)
from mae.training.checkpoint.snapshot import (
    CheckpointTensors,
    Snapshots,
    are_finite,
    buffer_checksums,
    checkpoint_tensors,
    is_sharded,
)


def prune_checkpoints(folder: Path, keep_last: int, keep_every: int, written: Path) -> None:
    """Delete checkpoints older than the `keep_last` newest intact ones.

    `written` is known to be intact; others are verified before they count.  It is kept, and so
    are those at multiples of `keep_every` steps (0: none).
    """
    good = 0
    for path in reversed(checkpoints(folder)):
        if good < keep_last:
            good += path == written or is_intact(path)
        elif path != written and not (keep_every and step_of(path) % keep_every == 0):
            with suppress(FileNotFoundError):  # another process has deleted it
                remove(path)


def keep_newest_damaged(folder: Path, damaged: Iterable[Path]) -> Path | None:
    """Rename the newest of these to step-….damaged, replacing one kept earlier.

    It is kept for inspection or repair; the others are not changed.  Returns its new path, or
    None where `damaged` is empty.
    """
    newest = max(damaged, key=step_of, default=None)
    if newest is None:
        return None
    for path in folder.glob(f"step-*{DAMAGED_SUFFIX}"):
        remove(path)
    return newest.rename(newest.with_suffix(DAMAGED_SUFFIX))


def delete_after(folder: Path, step: int) -> None:
    """Delete the checkpoints of later steps: damaged, or undone by a rollback."""
    for path in checkpoints(folder):
        if step_of(path) > step:
            remove(path)


class Saver:
    """Background writer of checkpoints; the training loop waits only for a copy in memory.

    The main process writes one checkpoint at a time.  The copy is as large as a checkpoint and
    stays in its memory.
    """

    def __init__(
        self, folder: Path, keep_last: int, keep_every: int, accelerator: Accelerator
    ) -> None:
        """Save into `folder`, keeping the newest `keep_last` and multiples of `keep_every` steps.

        `keep_every` = 0: keep only the newest.
        """
        self.folder, self.keep_last, self.keep_every = folder, keep_last, keep_every
        self.accelerator = accelerator
        self.snapshots = Snapshots()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.writing: Future[str | None] | None = None

    def save(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        state: TrainingState,
        wait: bool = False,
        average: MovingAverage | None = None,
    ) -> None:
        """Copy the state and write the copy in the background; with `wait`, until it is on disk.

        All processes call it, with the bare model (not wrapped by DDP), and either all or none
        raise RunFailed: where weights or buffers are not finite, buffers differ between
        processes, the disk has no space, or the previous write has failed; with `wait` also where
        this write fails.
        """
        tensors = checkpoint_tensors(model, optimizer, average)
        is_main = self.accelerator.is_main_process
        problem = self._problem_of(model, state)
        part = None
        if is_main and not problem:
            problem, part = self._reserve(tensors, state)
        checksums = buffer_checksums(model) if self.accelerator.num_processes > 1 else {}
        problems, sums = zip(*gather_object([(problem, checksums)]), strict=True)
        for reason in (*problems, _buffer_mismatch(sums, state)):
            if reason:
                if part:
                    discard(part)
                raise RunFailed(reason)
        if is_main or is_sharded(model):
            snapshot = self.snapshots.take(tensors, is_kept=is_main)
            if part:
                self.writing = self.thread.submit(self._write, part, snapshot, state)
        if wait:
            self.wait()
            (problem,) = broadcast_object_list([self.problem()])
            if problem:
                raise RunFailed(problem)

    def save_alone(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        state: TrainingState,
        average: MovingAverage | None = None,
    ) -> bool:
        """Save from this process without the others, which may be busy or have exited; waits.

        Returns False, and saves nothing, where the model is sharded.  Raises RunFailed as `save`
        does; buffers are not compared between processes.
        """
        if is_sharded(model):
            return False
        tensors = checkpoint_tensors(model, optimizer, average)
        problem = self._problem_of(model, state)
        if not problem:
            problem, part = self._reserve(tensors, state)
            if part:
                problem = self._write(part, self.snapshots.take(tensors, is_kept=True), state)
        if problem:
            raise RunFailed(problem)
        return True

    def problem(self) -> str | None:
        """Error of the last write; None if it succeeded or is running, and on other processes."""
        return self.writing.result() if self.writing and self.writing.done() else None

    def wait(self) -> None:
        """Wait for the write in progress, before this run reads checkpoints."""
        if self.writing:
            self.writing.result()

    def close(self) -> str | None:
        """Wait for the write in progress and stop; returns the error of the last write."""
        self.thread.shutdown(wait=True)
        return self.problem()

    def _problem_of(self, model: nn.Module, state: TrainingState) -> str | None:
        """Error message where the weights are not finite, else None."""
        if are_finite(model):
            return None
        return f"step {state.step}: the weights are not finite; nothing was saved"

    def _reserve(
        self, tensors: CheckpointTensors, state: TrainingState
    ) -> tuple[str | None, Path | None]:
        """Wait for the previous write and create a folder for the next; (error, folder)."""
        self.wait()
        if problem := self.problem():
            return problem, None
        try:
            return None, reserve(self.folder, state, tensors.num_bytes)
        except RunFailed as error:
            return str(error), None
        except OSError as error:
            return self._message(state, error), None

    def _write(self, part: Path, snapshot: CheckpointTensors, state: TrainingState) -> str | None:
        """Write and prune, in the thread; returns the error."""
        try:
            written = write_checkpoint(part, snapshot, state)
            prune_checkpoints(self.folder, self.keep_last, self.keep_every, written)
        except Exception as error:  # any error: all processes must learn of it
            return self._message(state, error)
        return None

    def _message(self, state: TrainingState, error: Exception) -> str:
        is_expected = isinstance(error, OSError | SafetensorError)
        return (
            f"step {state.step}: {self.folder} takes no checkpoint: "
            f"{error if is_expected else repr(error)}; "
            "earlier checkpoints are intact, and the same command continues from there"
        )


def _buffer_mismatch(sums: Sequence[dict[str, int]], state: TrainingState) -> str | None:
    """Error message naming a buffer that differs between processes, by checksums; else None."""
    first = sums[0]
    for number, other in enumerate(sums):
        for name in first.keys() | other.keys():
            if first.get(name) != other.get(name):
                return (
                    f"step {state.step}: buffer {name} of process {number} is not that of "
                    "process 0; nothing was saved: the objective must update its buffers from what "
                    "all processes share (after_step)"
                )
    return None
