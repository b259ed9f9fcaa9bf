"""Which checkpoints stay."""

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
from mae.training.checkpoint.average import Average
from mae.training.checkpoint.files import (
    DAMAGED,
    TrainingState,
    checkpoints,
    holds,
    remove,
    reserve,
    step_of,
    write_checkpoint,
)
from mae.training.checkpoint.snapshot import (
    Snapshots,
    Tensors,
    are_finite,
    buffer_checksums,
    is_sharded,
    tensors_of,
)


def prune(folder: Path, keep_last: int, keep_every: int, written: Path) -> None:
    """Delete what is older than the `keep_last` newest good checkpoints.

    `written` is known to be good; others are read and checked before they count.  It stays, and
    so do those at multiples of `keep_every` steps (0: none).
    """
    good = 0
    for path in reversed(checkpoints(folder)):
        if good < keep_last:
            good += path == written or holds(path)
        elif path != written and not (keep_every and step_of(path) % keep_every == 0):
            with suppress(FileNotFoundError):  # another process was faster
                remove(path)


def set_aside(folder: Path, damaged: Iterable[Path]) -> Path | None:
    """Keep the newest of these as step-….damaged, in the place of any kept so before.

    Whoever wants to may look at it, or mend it; the others stay as they are.  Returns its path.
    """
    newest = max(damaged, key=step_of, default=None)
    if newest is None:
        return None
    for path in folder.glob(f"step-*{DAMAGED}"):
        remove(path)
    return newest.rename(newest.with_suffix(DAMAGED))


def forget_after(folder: Path, step: int) -> None:
    """Delete the checkpoints of later steps: damaged ones, or of a future that is undone."""
    for path in checkpoints(folder):
        if step_of(path) > step:
            remove(path)


class Saver:
    """The main process writes, one checkpoint at a time; the step loop waits for a copy only.

    The copy is as large as a checkpoint and stays in the main process's memory.
    """

    def __init__(
        self, folder: Path, keep_last: int, keep_every: int, accelerator: Accelerator
    ) -> None:
        """Into `folder`; the newest `keep_last` stay, and those at multiples of `keep_every`.

        `keep_every` is in steps; 0: none.
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
        average: Average | None = None,
    ) -> None:
        """Copy, and write from the copy; with `wait`, until it is on disk.

        All processes call it, with the bare model (not what DDP wraps it in), and all of them
        raise RunFailed, or none: where weights or buffers are not finite, where buffers are not
        the same on all processes, where the folder cannot take a checkpoint of this size, where
        the write before has failed; with `wait` where this one fails.
        """
        tensors = tensors_of(model, optimizer, average)
        is_main = self.accelerator.is_main_process
        problem = self._problem_of(model, state)
        part = None
        if is_main and not problem:
            problem, part = self._reserve(tensors, state)
        checksums = buffer_checksums(model) if self.accelerator.num_processes > 1 else {}
        problems, sums = zip(*gather_object([(problem, checksums)]), strict=True)
        for reason in (*problems, _difference(sums, state)):
            if reason:
                if part:
                    part.rmdir()
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
        average: Average | None = None,
    ) -> bool:
        """Save from this process without the others, which may be busy or gone; waits.

        False where the model is sharded: no process can.  Raises RunFailed as `save` does; buffers
        are not compared.
        """
        if is_sharded(model):
            return False
        tensors = tensors_of(model, optimizer, average)
        problem = self._problem_of(model, state)
        if not problem:
            problem, part = self._reserve(tensors, state)
            if part:
                problem = self._write(part, self.snapshots.take(tensors, is_kept=True), state)
        if problem:
            raise RunFailed(problem)
        return True

    def problem(self) -> str | None:
        """Why the last write failed; None while it goes on, and on all but the main process."""
        return self.writing.result() if self.writing and self.writing.done() else None

    def wait(self) -> None:
        """Until nothing is being written: before checkpoints are read by this run."""
        if self.writing:
            self.writing.result()

    def close(self) -> str | None:
        """Wait for the write in progress; why the last one failed."""
        self.thread.shutdown(wait=True)
        return self.problem()

    def _problem_of(self, model: nn.Module, state: TrainingState) -> str | None:
        """Why these weights are not worth a checkpoint."""
        if are_finite(model):
            return None
        return f"step {state.step}: the weights are not finite; nothing was saved"

    def _reserve(self, tensors: Tensors, state: TrainingState) -> tuple[str | None, Path | None]:
        """A folder to write to, once the write before is done; or what is in the way."""
        self.wait()
        if problem := self.problem():
            return problem, None
        try:
            return None, reserve(self.folder, state, tensors.num_bytes)
        except OSError as error:
            return self._refusal(state, error), None

    def _write(self, part: Path, snapshot: Tensors, state: TrainingState) -> str | None:
        """The work of the thread; returns what went wrong."""
        try:
            written = write_checkpoint(part, snapshot, state)
            prune(self.folder, self.keep_last, self.keep_every, written)
        except Exception as error:  # whatever it is: all processes must come to know
            return self._refusal(state, error)
        return None

    def _refusal(self, state: TrainingState, error: Exception) -> str:
        is_expected = isinstance(error, OSError | SafetensorError)
        return (
            f"step {state.step}: {self.folder} takes no checkpoint: "
            f"{error if is_expected else repr(error)}; "
            "the ones before are intact, and the same command continues from there"
        )


def _difference(sums: Sequence[dict[str, int]], state: TrainingState) -> str | None:
    """Which buffer is not the same on all processes, by their checksums."""
    first = sums[0]
    for number, other in enumerate(sums):
        for name in first.keys() | other.keys():
            if first.get(name) != other.get(name):
                return (
                    f"step {state.step}: buffer {name} of process {number} is not that of "
                    "process 0; nothing was saved: the objective must change its buffers by what "
                    "all processes have (after_step)"
                )
    return None
