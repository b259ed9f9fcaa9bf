"""Encoding of images into features: skipped images, batches, outputs of an encoder."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.data.images import BadSample, Images, usable
from mae.data.transform import stack
from mae.data.views import CentredViews
from mae.data.worker_loader import load_in_workers
from mae.evaluation.encoders import TOKENS, Encode, FrozenEncoder
from mae.networks.encoders.registry import is_encoder
from mae.networks.vit import encoder_shape
from mae.objectives.registry import OBJECTIVES, declaration

Matrix = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
BATCH = 256
"""images per batch"""


OPTIONS = {"data.bits": "--bits", "data.in_chans": "--channels"}
"""settings of images, and the options of commands without settings that say the same"""


class Skipped:
    """Bad images of a data set that an evaluation skips; raises where there are too many."""

    def __init__(
        self,
        images: Images,
        max_bad: int,
        total: int | None = None,
        setting: str = "data.max_bad",
    ) -> None:
        """`total`: number of the images, if not all; `setting`: name of `max_bad` for messages."""
        self.total, self.max_bad, self.setting = total or len(images.manifest), max_bad, setting
        self.reasons: list[str] = []
        """shard, key and error of each skipped image"""

    def add(self, bad: Sequence[BadSample]) -> None:
        """Add bad images; UserError for more than `max_bad` in total, or where no image is left."""
        self.add_reasons([one.reason for one in bad])

    def add_reasons(self, reasons: Sequence[str]) -> None:
        """Like `add`, for images that were found bad before, by their `reasons`."""
        self.reasons += reasons
        if len(self.reasons) > self.max_bad:
            raise UserError(
                f"{self._first()} (one of {len(self.reasons)} bad images so far, more than "
                f"{self.setting} = {self.max_bad})"
            )
        if len(self.reasons) == self.total:
            raise UserError(f"{self._first()} (none of {self.total} images is readable)")

    def _first(self) -> str:
        """First reason, in the words of the command: options, where `setting` is one."""
        reason = self.reasons[0]
        if self.setting.startswith("--"):
            for key, option in OPTIONS.items():
                reason = reason.replace(f"but {key} is", f"but {option} is")
        return reason

    def report(self, log: Callable[[str], None]) -> None:
        """Log a line for each skipped image."""
        for reason in self.reasons:
            log(f"skipped: {reason}")


class EncodedBatch(NamedTuple):
    """Features of one batch of images."""

    vectors: dict[str, Halves]
    """[b d] by name; `tokens` [b p d] on request; empty where no image was usable"""
    samples: list[int]
    """numbers of the rows in the manifest"""
    bad: list[BadSample]
    """images that do not decode and have no row"""


class Views(NamedTuple):
    """Centred views of a batch of images."""

    images: Tensor | None
    """integers [b c h w]; None: no image was usable"""
    samples: list[int]
    """numbers of the rows in the manifest"""
    bad: list[BadSample]
    """images that do not decode and have no row"""


class UsableViews(Dataset):
    """Data set: range of sample numbers → centred views of those that decode, and bad samples."""

    def __init__(self, views: CentredViews) -> None:
        self.views = views

    def __getitem__(self, index: range) -> Views | UserError:
        """Views of a range; the StorageError, returned, where a shard cannot be read."""
        return usable_views(index, self.views.view)


def usable_views(samples: Sequence[int], view: Callable[[int], Tensor]) -> Views | UserError:
    """Views of the usable samples by `view`; an error is returned as by `usable`."""
    found = usable(samples, view)
    if isinstance(found, UserError):
        return found
    images = stack(list(found.made.values())) if found.made else None
    return Views(images, list(found.made), found.bad)


def ranges(count: int, size: int) -> list[range]:
    """Split 0 to `count` - 1 into ranges of `size`, the last one possibly smaller."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def encode_images(
    encoder: FrozenEncoder,
    images: Images,
    batches: Sequence[range],
    *,
    tokens: bool = False,
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> Iterator[EncodedBatch]:
    """Encode the `images` of each of `batches`, numbers in the manifest, in order.

    Raises StorageError for a shard that cannot be read, UserError for features that are not finite
    in half precision.
    """
    views = CentredViews(images, encoder.img_size, encoder.crop_pct)
    for found in load_in_workers(UsableViews(views), batches, workers):
        vectors: dict[str, Halves] = {}
        if found.images is not None:
            with torch.no_grad():
                outputs = encoder.encode(found.images.to(device))
            names = [name for name in sorted(outputs) if tokens or name != TOKENS]
            vectors = {name: _halves(outputs[name], name) for name in names}
        yield EncodedBatch(vectors, found.samples, found.bad)


def _halves(vectors: Tensor, name: str) -> Halves:
    halves = vectors.half().cpu()
    require_finite(halves, name)
    return halves.numpy()


def require_finite(vectors: Tensor, name: str) -> None:
    """Raise UserError where features `name`, perhaps in half precision, are not finite."""
    if not vectors.isfinite().all():
        raise UserError(
            f"features: `{name}` is not finite, or beyond ±65,504: the weights are damaged, or "
            "this encoder ends without a norm"
        )


class EncoderOutputs(NamedTuple):
    """Names of an encoder's pooled features, and its patch size."""

    vectors: list[str]
    """names of the pooled features, the preferred one first"""
    patch_size: tuple[int, int] | None
    """height and width of a patch in pixels; None: no grid of patch tokens"""


def encoder_outputs(
    module: nn.Module,
    encode: Encode,
    img_size: tuple[int, int],
    config: Config,
    device: torch.device | str = "cpu",
) -> EncoderOutputs:
    """Outputs of `encode`, which runs `module` on `device`, found by encoding one black image.

    UserError where they are not finite.
    """
    dtype = torch.uint8 if config.data.bits == 8 else torch.uint16
    image = torch.zeros(1, config.data.in_chans, *img_size, dtype=dtype)
    with torch.no_grad():
        found = encode(image.to(device))
    for name, values in found.items():
        if not values.isfinite().all():
            raise UserError(
                f"encoder: `{name}` of a black image is not finite: the weights are damaged; take "
                "another checkpoint"
            )
    tokens = found.pop(TOKENS, None)
    size = None if tokens is None else _patch_size(module, img_size, tokens.shape[1])
    return EncoderOutputs(list(found), size)


def _patch_size(
    module: nn.Module, img_size: tuple[int, int], tokens: int
) -> tuple[int, int] | None:
    encoder = getattr(module, "encoder", module)
    embedding: Any = getattr(encoder, "patch_embed", None)
    if is_encoder(encoder):
        height, width = encoder_shape(encoder).patch_size
    elif hasattr(embedding, "patch_size"):
        height, width = embedding.patch_size
    else:
        height = width = max(1, math.isqrt(img_size[0] * img_size[1] // max(tokens, 1)))
    grid = img_size[0] // height, img_size[1] // width
    return (height, width) if grid[0] * grid[1] == tokens else None


def missing_features(folder: Path, objective: str | None, what: str, command: str) -> UserError:
    """Error of a command that needs features `what` (plural) that an encoder lacks.

    `objective` is that of the run in `folder`; None: an export.
    """
    subject = f"objective {objective}" if objective else "this encoder"
    having = [name for name in OBJECTIVES if what in declaration(name).offers]
    known = f"; objectives with them: {', '.join(having)}" if having else ""
    return UserError(f"{folder}: {subject} has no {what}; mae {command} needs them{known}")


@torch.no_grad()
def blank_vectors(
    encoder: FrozenEncoder, channels: int, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Features of one black image: its names and widths are those of any image."""
    blank = torch.zeros(1, channels, *encoder.img_size, dtype=torch.uint8)
    return encoder.encode(blank.to(device))


def preferred_feature(vectors: Mapping[str, Tensor]) -> str:
    """Name of the feature that a linear probe reads: the class token, else the first pooled one."""
    return "cls" if "cls" in vectors else next(name for name in vectors if name != TOKENS)


@torch.no_grad()
def image_vectors(encoder: FrozenEncoder, images: Tensor) -> Tensor:
    """Preferred features [b d] of images, float32; computed in bf16 where a GPU supports it.

    The authors of MAE encode in half precision too.
    """
    device = images.device.type
    with torch.autocast(device, torch.bfloat16, enabled=uses_bf16(device)):
        vectors = encoder.encode(images)
    return vectors[preferred_feature(vectors)].float()


def uses_bf16(device: torch.device | str) -> bool:
    """Report whether `image_vectors` computes in bf16 on `device`."""
    is_gpu = torch.device(device).type == "cuda"
    return is_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
