"""Checkpoint files: written atomically, verified by checksums, never unpickled.

`step-000001234/` holds `model.safetensors`, `optimizer.safetensors` and `state.json`, which
records sizes and sha256 of the other two and the sha256 of its own content.  A checkpoint is
written under a temporary name, synced to disk and renamed, so a kill at any moment leaves the
previous checkpoint in place.

No file points to the latest checkpoint: a run resumes from the newest intact one by name.  A
pointer could be damaged, or be outdated after a kill between two writes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mae.base.errors import RunFailed, StorageError, UserError
from mae.base.files import discard, save_tensors, sync

if TYPE_CHECKING:
    from mae.training.checkpoint.snapshot import CheckpointTensors

FORMAT = 1
"""version of the content of state.json; its checksum works alike in all versions"""
RUN_ID = "run-id"
"""file in the run folder: a random id, which its checkpoints hold too"""
WEIGHTS, MOMENTS = "model.safetensors", "optimizer.safetensors"

DAMAGED_SUFFIX = ".damaged"
"""end of the name of a damaged checkpoint that was kept; no longer taken for a checkpoint"""

MARGIN_BYTES = 16 * 2**20
"""bytes of disk to leave free, for headers of the files and other files of the run"""


class DamagedCheckpoint(UserError):
    """A checkpoint whose files are missing or altered; an older one may be intact."""


def read_run_id(folder: Path) -> str:
    """Read the id of the run in a run folder; empty where there is none."""
    try:
        return (folder / RUN_ID).read_text(errors="replace").strip("\0 \n")
    except OSError:
        return ""


def foreign_folder(folder: Path) -> str:
    """Message of a process whose run folder is another run's, or is gone."""
    return (
        f"output: {folder} is no longer the folder of this run: it was removed, or made anew for "
        "another one; this process ends and leaves it alone"
    )


class TrainingState(NamedTuple):
    """Progress of a run, as recorded in a checkpoint."""

    step: int
    """optimizer steps done"""
    samples: int
    """images used so far, for model cards; the position in the data follows from `step`"""
    data: str
    """fingerprint of the training data"""
    skipped: tuple[int, ...] = ()
    """steps whose batches are skipped after a rollback"""
    run: str = ""
    """id of the run; empty in checkpoints of earlier versions"""


def reserve(folder: Path, state: TrainingState, num_bytes: int) -> Path:
    """Create the temporary folder that `write_checkpoint` fills, after checking the free space.

    A damaged checkpoint that was kept is deleted if its space is needed.  Raises OSError where
    `folder` is missing or not writable, or its file system has no space for `num_bytes` and a
    margin, RunFailed where it is another run's by now.
    """
    if state.run and read_run_id(folder.parent) != state.run:
        raise RunFailed(foreign_folder(folder.parent))
    needed = num_bytes + MARGIN_BYTES
    if _free_bytes(folder) < needed:
        for path in folder.glob(f"step-*{DAMAGED_SUFFIX}"):
            remove(path)
    if (free := _free_bytes(folder)) < needed:
        raise OSError(f"it needs {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free")
    # Several processes may save the same step, even from machines with equal pids.
    part = folder / f"step-{state.step:09d}.{secrets.token_hex(4)}.tmp"
    part.mkdir()
    return part


def write_checkpoint(part: Path, tensors: CheckpointTensors, state: TrainingState) -> Path:
    """Write whole CPU tensors into the folder `part` and rename it to step-…; returns its path.

    Raises OSError or SafetensorError where the disk is full or fails; `part` is deleted then, and
    existing checkpoints stay.
    """
    try:
        save_tensors(tensors.model, part / WEIGHTS)
        save_tensors(tensors.optimizer, part / MOMENTS)
        files = {name: _stamp(part / name) for name in (WEIGHTS, MOMENTS)}
        content = with_checksum({"format": FORMAT, **state._asdict(), "files": files})
        (part / "state.json").write_text(json.dumps(content, indent=1))
        for path in [*part.iterdir(), part]:
            sync(path)
        final = part.parent / f"step-{state.step:09d}"
        _commit(part, final, state)
        sync(part.parent)
    except BaseException:
        discard(part)
        raise
    return final


def _commit(part: Path, final: Path, state: TrainingState) -> None:
    """Rename `part` to `final`, replacing a damaged or outdated checkpoint of that name."""
    try:
        part.rename(final)
    except OSError:
        if not final.exists():
            raise
        if is_intact(final, state):
            discard(part)  # a leftover is deleted at the next start
            return
        # Damaged, or from before a rollback.  Another process may be saving the same step: check
        # again what it may have put there by now.
        with suppress(FileNotFoundError):
            remove(final)
        _commit(part, final, state)


def checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints in `folder`, damaged or not, oldest first."""
    paths = (path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name))
    return sorted(paths, key=step_of)


def step_of(path: Path) -> int:
    """Step in the name of a checkpoint."""
    return int(path.name.removeprefix("step-"))


def remove(path: Path) -> None:
    """Delete a checkpoint atomically: it is renamed first, in case a kill interrupts."""
    doomed = path.rename(path.with_suffix(f".{secrets.token_hex(4)}.tmp"))
    discard(doomed)  # leftovers are deleted at the next start


class IntactCheckpoint(NamedTuple):
    """The newest intact checkpoint, and the damaged ones that are newer."""

    path: Path
    state: TrainingState
    damaged: dict[Path, str]
    """path → description of the damage"""


def newest_checkpoint(
    folder: Path, before: int | None = None, run: str = ""
) -> IntactCheckpoint | None:
    """Find the newest intact checkpoint; None where `folder` has no checkpoints.

    With `before`, only checkpoints of earlier steps count; with `run`, those of other runs do not.
    Raises UserError where there are checkpoints but none is intact, and StorageError or UserError
    as `read_state` where one cannot be verified: skipping it might discard a good one.
    """
    damaged: dict[Path, str] = {}
    for path in reversed(checkpoints(folder)):
        if before is not None and step_of(path) >= before:
            continue
        try:
            state = read_state(path)
            if run and state.run and state.run != run:
                raise DamagedCheckpoint(f"{path}: is of another run, which wrote into this folder")
            return IntactCheckpoint(path, state, damaged)
        except DamagedCheckpoint as error:
            damaged[path] = str(error)
    if damaged:
        damage = "\n".join(damaged.values())
        raise UserError(f"{damage}\n{folder}: no intact checkpoint; delete these to start over")
    return None


def read_state(path: Path) -> TrainingState:
    """Read the state of a checkpoint after verifying its files against `state.json`.

    Raises DamagedCheckpoint, naming the file that is damaged or absent; StorageError where a file
    cannot be read, which may be temporary; UserError where a newer version has written it.
    """
    file = path / "state.json"
    try:
        content = json.loads(file.read_text())
        if content != with_checksum(content):
            raise DamagedCheckpoint(f"{path}: state.json is damaged (checksum mismatch)")
        if content["format"] != FORMAT:
            made = f"{path}: format {content['format']}"
            raise UserError(f"{made}; this version reads {FORMAT}: install a newer one")
        for name in (WEIGHTS, MOMENTS):
            file = path / name
            if _stamp(file) != content["files"][name]:
                raise DamagedCheckpoint(
                    f"{path}: {name} is damaged (not the bytes that were written)"
                )
        if content["step"] != step_of(path):  # resuming there would discard all newer steps
            raise DamagedCheckpoint(f"{path}: state.json is of step {content['step']}")
        return TrainingState(
            step=int(content["step"]),
            samples=int(content["samples"]),
            data=str(content["data"]),
            skipped=tuple(int(step) for step in content["skipped"]),
            run=str(content.get("run", "")),
        )
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{path}: no readable checkpoint: {file.name} is absent") from None
    except OSError as error:
        raise unreadable_error(file, error) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise DamagedCheckpoint(f"{path}: no readable checkpoint: {reason}") from None


def with_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """Copy `content` with the sha256 of its other entries, independent of order and spacing."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return {**rest, "sha256": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def is_intact(path: Path, state: TrainingState | None = None) -> bool:
    """True where the checkpoint `path` is intact, and has `state` if given."""
    try:
        found = read_state(path)
    except UserError:
        return False
    return state is None or found == state


def unreadable_error(file: Path, error: OSError) -> StorageError:
    """Error for a file that cannot be read now but may be intact."""
    reason = error.strerror or error
    return StorageError(f"{file}: cannot be read: {reason} (not damage; try again when it can)")


def _free_bytes(folder: Path) -> float:
    space = os.statvfs(folder)
    # Some network file systems report 0 blocks: unknown.
    return space.f_bavail * space.f_frsize if space.f_blocks else math.inf


def _stamp(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
