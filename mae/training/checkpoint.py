"""Checkpoints that are whole or not there, and load without unpickling.

`step-000001234/` holds `model.safetensors`, `optimizer.safetensors` and `state.json`, which
carries sizes and sha256 of the other two.  It is written under a temporary name, synced to disk
and renamed, so a kill at any moment leaves the checkpoint before it in place.

There is no file that points to the latest one: names order them, and the newest whose contents
are what was written is the one to go on from.  A pointer would be a second truth, to be damaged
or left behind by a kill between two writes.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from mae.errors import UserError
from mae.training.snapshot import Tensors, shard_like

FORMAT = 1
WEIGHTS, MOMENTS = "model.safetensors", "optimizer.safetensors"

MARGIN = 16 * 2**20
"""bytes that a checkpoint leaves free: for its headers, and for the run's other files"""


class Position(NamedTuple):
    """Where a run stands, and what it must be resumed with."""

    step: int
    """optimizer steps done"""
    samples: int
    """images used so far: the position in the stream"""
    data: str
    """fingerprint of the training data"""
    skipped: tuple[int, ...] = ()
    """steps whose batches are left out after a rollback"""


def reserve(folder: Path, position: Position, num_bytes: int) -> Path:
    """Make the temporary folder that `write_checkpoint` fills.

    Raises OSError where `folder` is gone or cannot be written, or where its file system has no
    room for `num_bytes` and a margin.
    """
    space = os.statvfs(folder)
    needed, free = num_bytes + MARGIN, space.f_bavail * space.f_frsize
    if space.f_blocks and free < needed:  # some network file systems do not know: 0 blocks
        raise OSError(f"it needs {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free")
    # Processes that fail at the same step each save it, maybe from machines with equal pids.
    part = folder / f"step-{position.step:09d}.{secrets.token_hex(4)}.tmp"
    part.mkdir()
    return part


def write_checkpoint(part: Path, tensors: Tensors, position: Position) -> Path:
    """Fill `part` with whole tensors of the CPU, and give it its name: step-….

    Raises OSError or SafetensorError where the disk is full or fails; `part` is gone then, and
    the checkpoints that are there stay.
    """
    try:
        save_file(tensors.model, part / WEIGHTS)
        save_file(tensors.optimizer, part / MOMENTS)
        files = {name: _stamp(part / name) for name in (WEIGHTS, MOMENTS)}
        state = {"format": FORMAT, **position._asdict(), "files": files}
        (part / "state.json").write_text(json.dumps(state, indent=1))
        for path in [*part.iterdir(), part]:
            _sync(path)
        final = part.parent / f"step-{position.step:09d}"
        _commit(part, final, position)
        _sync(part.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return final


def _commit(part: Path, final: Path, position: Position) -> None:
    """Rename, also where the name is taken: by another process, or by what is not wanted."""
    try:
        part.rename(final)
    except OSError:
        if not final.exists():
            raise
        if holds(final, position):
            shutil.rmtree(part)
            return
        # Damaged, or of before a rollback.  Another process may be at the same work: whatever
        # it has put there by now is looked at again.
        with suppress(FileNotFoundError):
            remove(final)
        _commit(part, final, position)


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
    position: Position
    damaged: dict[Path, str]
    """what is wrong with each"""


def newest_checkpoint(folder: Path, before: int | None = None) -> Found | None:
    """The newest checkpoint whose files are what was written; damaged ones are passed over.

    With `before`, only those of earlier steps are looked at.  Raises UserError where there are
    checkpoints but none is intact.
    """
    damaged: dict[Path, str] = {}
    for path in reversed(checkpoints(folder)):
        if before is not None and step_of(path) >= before:
            continue
        try:
            return Found(path, read_position(path), damaged)
        except UserError as error:
            damaged[path] = str(error)
    if damaged:
        damage = "\n".join(damaged.values())
        raise UserError(f"{damage}\n{folder}: no intact checkpoint; delete these to start over")
    return None


def read_position(path: Path) -> Position:
    """Check a checkpoint's files against its `state.json`; UserError says what is damaged."""
    try:
        state = json.loads((path / "state.json").read_text())
        if state["format"] != FORMAT:
            raise UserError(f"{path}: format {state['format']}; this version reads {FORMAT}")
        for name in (WEIGHTS, MOMENTS):
            if _stamp(path / name) != state["files"][name]:
                raise UserError(f"{path}: {name} is damaged (not the bytes that were written)")
        if state["step"] != step_of(path):  # going on there would undo all that is newer
            raise UserError(f"{path}: state.json is of step {state['step']}")
        return Position(
            int(state["step"]),
            int(state["samples"]),
            str(state["data"]),
            tuple(int(step) for step in state.get("skipped", ())),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{path}: no readable checkpoint: {reason}") from None


def holds(path: Path, position: Position | None = None) -> bool:
    """`path` is intact, and of `position` where one is given."""
    try:
        found = read_position(path)
    except UserError:
        return False
    return position is None or found == position


def load_model(path: Path, model: nn.Module) -> None:
    """Load the weights; every tensor of model and file must match.

    Every process reads the file; of a sharded model it takes its own part.
    """
    own = model.state_dict()
    try:
        tensors = load_file(path / WEIGHTS)
        parts = {name: shard_like(tensor, own.get(name)) for name, tensor in tensors.items()}
        model.load_state_dict(parts, strict=True)
    except (RuntimeError, SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: the weights do not fit this model: {reason}") from None


def load_optimizer(path: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Load the optimizer's state; every trainable parameter must have its own.

    A sharded model takes its own part; it must be sharded by now, and `optimizer` be its own.
    """
    try:
        tensors = load_file(path / MOMENTS)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: {MOMENTS} is not readable: {error}") from None
    names = {parameter: name for name, parameter in model.named_parameters()}
    packed = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kinds = {key.partition("/")[0] for key in tensors}

    def take(kind: str, parameter: nn.Parameter) -> Tensor:
        key = f"{kind}/{names[parameter]}"
        whole = tensors.pop(key)
        if not whole.ndim:  # a count of steps
            return whole
        if whole.shape != parameter.shape:
            shapes = f"{list(whole.shape)}, not {list(parameter.shape)}"
            raise UserError(f"{path}: {MOMENTS}: {key} has shape {shapes}")
        return shard_like(whole, parameter)

    try:
        packed["state"] = {
            number: {kind: take(kind, parameter) for kind in kinds}
            for number, parameter in enumerate(parameters)
        }
    except KeyError as error:
        raise UserError(f"{path}: {MOMENTS} lacks {error}") from None
    if tensors:
        raise UserError(f"{path}: {MOMENTS} holds unknown {next(iter(tensors))}")
    optimizer.load_state_dict(packed)


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
