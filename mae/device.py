"""The device that a command was told to use."""

import torch

from mae.errors import UserError


def choose_device(name: str) -> str:
    """`auto` is a GPU where there is one; UserError where torch does not know the device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return name
