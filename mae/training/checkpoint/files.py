"""Checkpoints that are whole or not there, and load without unpickling.

`step-000001234/` holds `model.safetensors`, `optimizer.safetensors` and `state.json`, which
carries sizes and sha256 of the other two and the sha256 of its own content.  It is written under
a temporary name, synced to disk and renamed, so a kill at any moment leaves the checkpoint before
it in place.

There is no file that points to the latest one: names order them, and the newest whose contents
are what was written is the one to go on from.  A pointer would be a second truth, to be damaged
or left behind by a kill between two writes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mae.base.errors import StorageError, UserError

if TYPE_CHECKING:
    from mae.training.checkpoint.snapshot import Tensors

FORMAT = 1
"""of what `seal` goes around, which is the same in all formats"""
WEIGHTS, MOMENTS = "model.safetensors", "optimizer.safetensors"

DAMAGED = ".damaged"
"""what a damaged checkpoint's name ends in once it is passed over: it counts as none then"""

MARGIN = 16 * 2**20
"""bytes that a checkpoint leaves free: for its headers, and for the run's other files"""


class DamagedCheckpoint(UserError):
    """Not the bytes that were written; an older one may do."""


class TrainingState(NamedTuple):
    """Where a run stands, and what it must be resumed with."""

    step: int
    """optimizer steps done"""
    samples: int
    """images used so far: the position in the stream"""
    data: str
    """fingerprint of the training data"""
    skipped: tuple[int, ...] = ()
    """steps whose batches are left out after a rollback"""


def reserve(folder: Path, state: TrainingState, num_bytes: int) -> Path:
    """Make the temporary folder that `write_checkpoint` fills.

    A damaged checkpoint that was kept goes where its room is needed.  Raises OSError where
    `folder` is gone or cannot be written, or where its file system has no room for `num_bytes`
    and a margin.
    """
    needed = num_bytes + MARGIN
    if _free_bytes(folder) < needed:
        for path in folder.glob(f"step-*{DAMAGED}"):
            remove(path)
    if (free := _free_bytes(folder)) < needed:
        raise OSError(f"it needs {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free")
    # Processes that fail at the same step each save it, maybe from machines with equal pids.
    part = folder / f"step-{state.step:09d}.{secrets.token_hex(4)}.tmp"
    part.mkdir()
    return part


def write_checkpoint(part: Path, tensors: Tensors, state: TrainingState) -> Path:
    """Fill `part` with whole tensors of the CPU, and give it its name: step-….

    Raises OSError or SafetensorError where the disk is full or fails; `part` is gone then, and
    the checkpoints that are there stay.
    """
    from safetensors.torch import save_file  # torch comes with it: not for what only reads

    try:
        save_file(tensors.model, part / WEIGHTS)
        save_file(tensors.optimizer, part / MOMENTS)
        files = {name: _stamp(part / name) for name in (WEIGHTS, MOMENTS)}
        content = seal({"format": FORMAT, **state._asdict(), "files": files})
        (part / "state.json").write_text(json.dumps(content, indent=1))
        for path in [*part.iterdir(), part]:
            _sync(path)
        final = part.parent / f"step-{state.step:09d}"
        _commit(part, final, state)
        _sync(part.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return final


def _commit(part: Path, final: Path, state: TrainingState) -> None:
    """Rename, also where the name is taken: by another process, or by what is not wanted."""
    try:
        part.rename(final)
    except OSError:
        if not final.exists():
            raise
        if holds(final, state):
            shutil.rmtree(part)
            return
        # Damaged, or of before a rollback.  Another process may be at the same work: whatever
        # it has put there by now is looked at again.
        with suppress(FileNotFoundError):
            remove(final)
        _commit(part, final, state)


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in `folder`, oldest first."""
    found = (path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name))
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The step in a checkpoint's name."""
    return int(path.name.removeprefix("step-"))


def remove(path: Path) -> None:
    """Delete a checkpoint: gone at once, not file by file should a kill come between."""
    doomed = path.rename(path.with_suffix(f".{secrets.token_hex(4)}.tmp"))
    shutil.rmtree(doomed, ignore_errors=True)  # what is left goes at the next start


class Found(NamedTuple):
    """The newest intact checkpoint, and the newer ones that are not."""

    path: Path
    state: TrainingState
    damaged: dict[Path, str]
    """what is wrong with each"""


def newest_checkpoint(folder: Path, before: int | None = None) -> Found | None:
    """The newest checkpoint whose files are what was written; damaged ones are passed over.

    With `before`, only those of earlier steps are looked at.  Raises UserError where there are
    checkpoints but none is intact, and as `read_state` does where one cannot be judged: to
    pass over it would undo what may be good.
    """
    damaged: dict[Path, str] = {}
    for path in reversed(checkpoints(folder)):
        if before is not None and step_of(path) >= before:
            continue
        try:
            return Found(path, read_state(path), damaged)
        except DamagedCheckpoint as error:
            damaged[path] = str(error)
    if damaged:
        damage = "\n".join(damaged.values())
        raise UserError(f"{damage}\n{folder}: no intact checkpoint; delete these to start over")
    return None


def read_state(path: Path) -> TrainingState:
    """Check a checkpoint's files against its `state.json`.

    Raises DamagedCheckpoint, which says what is damaged or absent; StorageError where a file
    cannot be read, which may pass; UserError where a newer version has written it.
    """
    file = path / "state.json"
    try:
        content = json.loads(file.read_text())
        if content != seal(content):
            raise DamagedCheckpoint(f"{path}: state.json is damaged (not what was written)")
        if content["format"] != FORMAT:
            made = f"{path}: format {content['format']}"
            raise UserError(f"{made}; this version reads {FORMAT}: install a newer one")
        for name in (WEIGHTS, MOMENTS):
            file = path / name
            if _stamp(file) != content["files"][name]:
                raise DamagedCheckpoint(
                    f"{path}: {name} is damaged (not the bytes that were written)"
                )
        if content["step"] != step_of(path):  # going on there would undo all that is newer
            raise DamagedCheckpoint(f"{path}: state.json is of step {content['step']}")
        return TrainingState(
            int(content["step"]),
            int(content["samples"]),
            str(content["data"]),
            tuple(int(step) for step in content["skipped"]),
        )
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{path}: no readable checkpoint: {file.name} is absent") from None
    except OSError as error:
        raise unreadable(file, error) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise DamagedCheckpoint(f"{path}: no readable checkpoint: {reason}") from None


def seal(content: dict[str, Any]) -> dict[str, Any]:
    """`content` with the sha256 of all the rest of it, however it may be spaced or ordered."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return {**rest, "sha256": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def holds(path: Path, state: TrainingState | None = None) -> bool:
    """`path` is intact, and of `state` where one is given."""
    try:
        found = read_state(path)
    except UserError:
        return False
    return state is None or found == state


def unreadable(file: Path, error: OSError) -> StorageError:
    """Of a file that may be good."""
    reason = error.strerror or error
    return StorageError(f"{file}: cannot be read: {reason} (not damage; try again when it can)")


def _free_bytes(folder: Path) -> float:
    space = os.statvfs(folder)
    # Some network file systems do not know: 0 blocks.
    return space.f_bavail * space.f_frsize if space.f_blocks else math.inf


def _stamp(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
