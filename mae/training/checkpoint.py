"""Checkpoints that are whole or not there, and load without unpickling.

`step-000001234/` holds `model.safetensors`, `optimizer.safetensors` and `state.json`, which
carries sizes and sha256 of the other two.  It is written under a temporary name, synced to disk
and renamed, so a kill at any moment leaves the checkpoint before it in place.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from mae.errors import UserError

FORMAT = 1


class Position(NamedTuple):
    """Where a run stands, and what it must be resumed with."""

    step: int
    """optimizer steps done"""
    samples: int
    """images used so far: the position in the stream"""
    data: str
    """fingerprint of the training data"""


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: Optimizer, position: Position, keep_last: int
) -> Path:
    """Write `folder`/step-…, then delete all but the newest `keep_last`.

    Raises OSError or SafetensorError where the disk is full or the folder cannot be written; the
    checkpoints that are there stay.
    """
    final = folder / f"step-{position.step:09d}"
    part = final.with_suffix(f".{os.getpid()}.tmp")  # two processes may fail at the same step
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file(_contiguous(model.state_dict()), part / "model.safetensors")
    save_file(optimizer_tensors(model, optimizer), part / "optimizer.safetensors")
    files = {path.name: _stamp(path) for path in sorted(part.iterdir())}
    state = {"format": FORMAT, **position._asdict(), "files": files}
    (part / "state.json").write_text(json.dumps(state, indent=1))
    for path in [*part.iterdir(), part]:
        _sync(path)
    try:
        part.rename(final)
    except OSError:  # there is one: of another process, or damaged, and restore() passed it over
        if not final.exists():
            raise
        if _is_intact(final):
            shutil.rmtree(part)
            return final
        shutil.rmtree(final)
        part.rename(final)
    _sync(folder)
    for old in checkpoints(folder)[:-keep_last]:
        shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.suffix != ".tmp")


class Found(NamedTuple):
    """The newest intact checkpoint, and the newer ones that are not."""

    path: Path
    position: Position
    damaged: dict[Path, str]
    """what is wrong with each"""


def newest_checkpoint(folder: Path) -> Found | None:
    """The newest checkpoint whose files are what was written; damaged ones are passed over.

    Raises UserError where there are checkpoints but none is intact.
    """
    damaged: dict[Path, str] = {}
    for path in reversed(checkpoints(folder)):
        try:
            return Found(path, read_position(path), damaged)
        except UserError as error:
            damaged[path] = str(error)
    if damaged:
        raise UserError("\n".join(damaged.values()))
    return None


def read_position(path: Path) -> Position:
    """Check a checkpoint's files against its `state.json`; UserError says what is damaged."""
    try:
        state = json.loads((path / "state.json").read_text())
        if state["format"] != FORMAT:
            raise UserError(f"{path}: format {state['format']}; this version reads {FORMAT}")
        for name, stamp in state["files"].items():
            if _stamp(path / name) != stamp:
                raise UserError(f"{path}: {name} is damaged (not the bytes that were written)")
        return Position(*(state[field] for field in Position._fields))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no readable checkpoint: {error}") from None


def _is_intact(path: Path) -> bool:
    try:
        return bool(read_position(path))
    except UserError:
        return False


def load_model(path: Path, model: nn.Module) -> None:
    """Load the weights; every tensor of model and file must match."""
    try:
        model.load_state_dict(load_file(path / "model.safetensors"), strict=True)
    except (RuntimeError, SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: the weights do not fit this model: {reason}") from None


def load_optimizer(path: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Load the optimizer's state; every trainable parameter must have its own."""
    tensors = load_file(path / "optimizer.safetensors")
    names = {parameter: name for name, parameter in model.named_parameters()}
    packed = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kinds = {key.partition("/")[0] for key in tensors}
    try:
        packed["state"] = {
            number: {kind: tensors.pop(f"{kind}/{names[parameter]}") for kind in kinds}
            for number, parameter in enumerate(parameters)
        }
    except KeyError as error:
        raise UserError(f"{path}: optimizer.safetensors lacks {error}") from None
    if tensors:
        raise UserError(f"{path}: optimizer.safetensors holds unknown {next(iter(tensors))}")
    optimizer.load_state_dict(packed)


def optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `kind/parameter name` → tensor."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return _contiguous(
        {
            f"{kind}/{names[id(parameter)]}": value
            for parameter, state in optimizer.state.items()
            for kind, value in state.items()
            if isinstance(value, Tensor)
        }
    )


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _stamp(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
