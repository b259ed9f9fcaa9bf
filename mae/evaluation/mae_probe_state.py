"""A linear probe that stopped half-way: one file, whole or absent, never pickled."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from mae.errors import UserError

STATE_FILE = "state.safetensors"
MOMENTUM = "momentum/"


class Progress(NamedTuple):
    """How far a probe came."""

    step: int
    bad: dict[int, str]
    """unreadable training images met so far: number in the manifest → what is wrong"""


def save_state(
    folder: Path, head: nn.Module, optimizer: Optimizer, done: Progress, settings: dict[str, Any]
) -> None:
    """Replace `folder`/state.safetensors; UserError where it cannot be written.

    `settings`: what decides the result, as JSON holds it.
    """
    tensors: dict[str, Tensor] = {**head.state_dict()}
    for name, parameter in head.named_parameters():
        if state := optimizer.state.get(parameter):
            tensors[MOMENTUM + name] = state["momentum"]
    bad = json.dumps(list(done.bad.items()))
    about = {"step": str(done.step), "bad": bad, "settings": json.dumps(settings)}
    part = folder / f".{STATE_FILE}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, about)
        part.replace(folder / STATE_FILE)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be written: {error}") from None


def load_state(
    folder: Path, head: nn.Module, optimizer: Optimizer, settings: dict[str, Any]
) -> Progress:
    """Fill head and optimizer, and return what was done: nothing where there is no state.

    Raises UserError where the state is damaged, or that of a probe with other settings.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return Progress(0, {})
    try:
        with safe_open(path, framework="pt") as stored:
            about = stored.metadata()
            step, other = int(about["step"]), json.loads(about["settings"])
            bad = {int(sample): str(reason) for sample, reason in json.loads(about["bad"])}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        different = [key for key in settings if settings[key] != other.get(key)]
        if different:
            raise UserError(
                f"{path}: an unfinished probe with another {different[0]} "
                f"({other.get(different[0])}, not {settings[different[0]]}): "
                "go back to that, or delete the file to begin anew"
            )
        parameters = dict(head.named_parameters())
        for name in [name for name in tensors if name.startswith(MOMENTUM)]:
            parameter = parameters[name.removeprefix(MOMENTUM)]
            optimizer.state[parameter]["momentum"] = tensors.pop(name).to(parameter.device)
        head.load_state_dict(tensors, strict=True)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not readable: {reason}; delete it to begin anew") from None
    return Progress(step, bad)


def forget_state(folder: Path) -> None:
    """Nothing is left to continue."""
    (folder / STATE_FILE).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
