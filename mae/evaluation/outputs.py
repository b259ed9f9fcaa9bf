"""Features that an encoder gives, and refusals where it lacks some."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.evaluation.encoders import TOKENS, Encode, FrozenEncoder
from mae.objectives.registry import OBJECTIVES, declaration


class Outputs(NamedTuple):
    """Features that an encoder has."""

    vectors: list[str]
    """names of the pooled ones, the preferred one first"""
    patch_size: tuple[int, int] | None
    """height and width in pixels that a patch token stands for; None: no grid of patch tokens"""


def outputs_of(
    module: nn.Module,
    encode: Encode,
    img_size: tuple[int, int],
    config: Config,
    device: torch.device | str = "cpu",
) -> Outputs:
    """What `encode` gives, seen from one black image; `module` is what it runs, on `device`."""
    dtype = torch.uint8 if config.data.bits == 8 else torch.uint16
    image = torch.zeros(1, config.data.in_chans, *img_size, dtype=dtype)
    with torch.no_grad():
        found = encode(image.to(device))
    tokens = found.pop(TOKENS, None)
    size = None if tokens is None else _patch_size(module, img_size, tokens.shape[1])
    return Outputs(list(found), size)


def _patch_size(
    module: nn.Module, img_size: tuple[int, int], tokens: int
) -> tuple[int, int] | None:
    embedding: Any = getattr(getattr(module, "encoder", module), "patch_embed", None)
    if embedding is not None:
        height, width = embedding.patch_size
    else:
        height = width = max(1, math.isqrt(img_size[0] * img_size[1] // max(tokens, 1)))
    grid = img_size[0] // height, img_size[1] // width
    return (height, width) if grid[0] * grid[1] == tokens else None


def lacking(folder: Path, objective: str | None, what: str, command: str) -> UserError:
    """The refusal of a command that needs `what` (plural) of an encoder; `objective`: of a run."""
    subject = f"objective {objective}" if objective else "this encoder"
    having = [name for name in OBJECTIVES if what in declaration(name).offers]
    known = f", as {' or '.join(having)} has" if having else ""
    return UserError(f"{folder}: {subject} has no {what}; mae {command} needs them{known}")


@torch.no_grad()
def blank_vectors(
    encoder: FrozenEncoder, channels: int, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """The features of one black image: names and widths are those of all images."""
    blank = torch.zeros(1, channels, *encoder.img_size, dtype=torch.uint8)
    return encoder.encode(blank.to(device))


def preferred(vectors: Mapping[str, Tensor]) -> str:
    """Name of the vector that a linear probe reads: the class token, else the first pooled one."""
    return "cls" if "cls" in vectors else next(name for name in vectors if name != TOKENS)


@torch.no_grad()
def image_vectors(encoder: FrozenEncoder, images: Tensor) -> Tensor:
    """[b d] float32: the preferred vectors of images.

    In bf16 where a GPU has it, as the authors encode in half precision.
    """
    device = images.device.type
    use_bf16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    with torch.autocast(device, torch.bfloat16, enabled=use_bf16):
        vectors = encoder.encode(images)
    return vectors[preferred(vectors)].float()
