"""Images that an evaluation does without: named, counted, and few."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mae.base.errors import SampleError, UserError
from mae.config.sections import Config
from mae.data.images import BadSample, Images
from mae.data.transform import stack
from mae.data.views import CentredViews
from mae.data.worker_loader import load_in_workers
from mae.evaluation.encoders import TOKENS, Encode, FrozenEncoder
from mae.objectives.registry import OBJECTIVES, declaration


class Skipped:
    """The bad images of a data set, as they are met."""

    def __init__(self, images: Images, max_bad: int) -> None:
        self.total, self.max_bad = len(images.manifest), max_bad
        self.reasons: list[str] = []
        """shard, key and what is wrong"""

    def add(self, bad: Sequence[BadSample]) -> None:
        """UserError where there are more than data.max_bad by now, or no other image is left."""
        self.reasons += [one.reason for one in bad]
        if len(self.reasons) > self.max_bad:
            raise UserError(
                f"{self.reasons[0]} (one of {len(self.reasons)} bad images so far, more than "
                f"data.max_bad = {self.max_bad})"
            )
        if len(self.reasons) == self.total:
            raise UserError(f"{self.reasons[0]} (none of {self.total} images is readable)")

    def report(self, log: Callable[[str], None]) -> None:
        """A line for each."""
        for reason in self.reasons:
            log(f"left out: {reason}")


Matrix = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
BATCH = 256


class EncodedBatch(NamedTuple):
    """One batch of encoded images."""

    vectors: dict[str, Halves]
    """[b d] by name; `tokens` [b p d] where asked for; empty where no image was usable"""
    samples: list[int]
    """of the rows: numbers in the manifest"""
    bad: list[BadSample]
    """images that have no row, since they do not decode"""


class _Views(NamedTuple):
    images: Tensor | None
    samples: list[int]
    bad: list[BadSample]


class UsableViews(Dataset):
    """Ranges of sample numbers → the centred views of those that decode, and the bad ones."""

    def __init__(self, views: CentredViews) -> None:
        self.views = views

    def __getitem__(self, index: range) -> _Views | UserError:
        """A shard that cannot be read comes back as a value, a StorageError."""
        usable: dict[int, Tensor] = {}
        bad = []
        for sample in index:
            try:
                usable[sample] = self.views.view(sample)
            except SampleError as error:
                bad.append(BadSample(sample, str(error)))
            except UserError as error:
                return error
        return _Views(stack(list(usable.values())) if usable else None, list(usable), bad)


class UsableSamples(NamedTuple):
    """Which images can be looked at."""

    samples: npt.NDArray[np.int64]
    """numbers in the manifest, ascending"""
    skipped: list[str]
    """what is wrong with the others"""


def usable_samples(views: CentredViews, max_bad: int, *, workers: int = 0) -> UsableSamples:
    """Decode all images once, to know before hours of work which of them do not.

    Raises UserError where more than `max_bad` do not, StorageError for an unreadable shard.
    """
    skipped, samples = Skipped(views.images, max_bad), []
    for found in load_in_workers(UsableViews(views), ranges(len(views), BATCH), workers):
        skipped.add(found.bad)
        samples += found.samples
    return UsableSamples(np.array(samples, dtype=np.int64), skipped.reasons)


def ranges(count: int, size: int) -> list[range]:
    """0 to `count` - 1 in parts of `size`, the last one smaller."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def encode_images(
    encoder: FrozenEncoder,
    images: Images,
    *,
    tokens: bool = False,
    device: torch.device | str = "cpu",
    batch_size: int = BATCH,
    workers: int = 0,
) -> Iterator[EncodedBatch]:
    """Encode all of `images` in the order of the manifest, batch by batch.

    Raises StorageError for a shard that cannot be read, UserError for features that half
    precision cannot hold.
    """
    views = CentredViews(images, encoder.img_size, encoder.crop_pct)
    for found in load_in_workers(UsableViews(views), ranges(len(views), batch_size), workers):
        vectors: dict[str, Halves] = {}
        if found.images is not None:
            with torch.no_grad():
                outputs = encoder.encode(found.images.to(device))
            names = [name for name in sorted(outputs) if tokens or name != TOKENS]
            vectors = {name: _halves(outputs[name], name) for name in names}
        yield EncodedBatch(vectors, found.samples, found.bad)


def _halves(vectors: Tensor, name: str) -> Halves:
    halves = vectors.half().cpu()
    if not halves.isfinite().all():
        raise UserError(
            f"features: `{name}` is not finite, or beyond ±65,504: the weights are damaged, or "
            "this encoder ends without a norm"
        )
    return halves.numpy()


class EncoderOutputs(NamedTuple):
    """Features that an encoder has."""

    vectors: list[str]
    """names of the pooled ones, the preferred one first"""
    patch_size: tuple[int, int] | None
    """height and width in pixels that a patch token stands for; None: no grid of patch tokens"""


def encoder_outputs(
    module: nn.Module,
    encode: Encode,
    img_size: tuple[int, int],
    config: Config,
    device: torch.device | str = "cpu",
) -> EncoderOutputs:
    """What `encode` gives, seen from one black image; `module` is what it runs, on `device`."""
    dtype = torch.uint8 if config.data.bits == 8 else torch.uint16
    image = torch.zeros(1, config.data.in_chans, *img_size, dtype=dtype)
    with torch.no_grad():
        found = encode(image.to(device))
    tokens = found.pop(TOKENS, None)
    size = None if tokens is None else _patch_size(module, img_size, tokens.shape[1])
    return EncoderOutputs(list(found), size)


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


def missing_features(folder: Path, objective: str | None, what: str, command: str) -> UserError:
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


def preferred_feature(vectors: Mapping[str, Tensor]) -> str:
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
    return vectors[preferred_feature(vectors)].float()
