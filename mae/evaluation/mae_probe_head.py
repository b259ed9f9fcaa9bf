"""The head of the paper's linear probe, and what it reads and says of images."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mae.config import Config
from mae.data.batches import batches
from mae.data.images import Images
from mae.data.loader import CentredViews
from mae.evaluation.encoders import FrozenEncoder
from mae.evaluation.features import BATCH, UsableViews, ranges
from mae.evaluation.left_out import LeftOut
from mae.evaluation.protocol import ranks_of_truth


class ProbeHead(nn.Module):
    """BatchNorm without weights, then a linear layer: N(0, 0.01) weights, no bias at first."""

    def __init__(self, width: int, classes: int, seed: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)
        self.linear = nn.Linear(width, classes)
        chance = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.linear.weight, std=0.01, generator=chance)
        nn.init.zeros_(self.linear.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """[b d] → [b classes]."""
        return self.linear(self.norm(vectors))


@torch.no_grad()
def image_vectors(encoder: FrozenEncoder, images: Tensor) -> Tensor:
    """[b d] float32: the class token, or the mean of the patch tokens where there is none.

    In bf16 where a GPU has it, as the authors encode in half precision.
    """
    device = images.device.type
    use_bf16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    with torch.autocast(device, torch.bfloat16, enabled=use_bf16):
        vectors = encoder.encode(images)
    return vectors[feature_name(vectors)].float()


def feature_name(vectors: dict[str, Tensor]) -> str:
    """Which of the encoder's vectors the head reads."""
    return "cls" if "cls" in vectors else "mean"


@torch.no_grad()
def blank_vectors(
    config: Config, encoder: FrozenEncoder, device: torch.device | str
) -> dict[str, Tensor]:
    """What the encoder says of one black image: names and widths are those of all images."""
    blank = torch.zeros(1, config.model.in_chans, *encoder.img_size, dtype=torch.uint8)
    return encoder.encode(blank.to(device))


class CentredVectors(NamedTuple):
    """What the head is tested on."""

    vectors: Tensor
    """float32 [n d]"""
    samples: npt.NDArray[np.int64]
    """[n] numbers in the manifest; images that do not decode have no row"""
    left_out: list[str]
    """what is wrong with those"""


def centred_vectors(
    encoder: FrozenEncoder,
    images: Images,
    max_bad: int = 0,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = BATCH,
    workers: int = 0,
) -> CentredVectors:
    """Of the centred view of each image.  UserError where more than `max_bad` do not decode."""
    views = CentredViews(images, encoder.img_size, encoder.crop_pct)
    left_out, samples, vectors = LeftOut(images, max_bad), [], []
    for found in batches(UsableViews(views), ranges(len(views), batch_size), workers):
        left_out.add(found.bad)
        if found.images is not None:
            vectors.append(image_vectors(encoder, found.images.to(device)).cpu())
            samples += found.samples
    return CentredVectors(torch.cat(vectors), np.array(samples), left_out.reasons)


@torch.no_grad()
def head_ranks(
    head: nn.Module,
    vectors: Tensor,
    targets: npt.NDArray[np.int64],
    device: torch.device | str = "cpu",
) -> npt.NDArray[np.int64]:
    """[n] of all images, BATCH at a time: `ranks_of_truth`."""
    parts = enumerate(vectors.split(BATCH))
    ranks = [
        ranks_of_truth(head(part.to(device)), targets[i * BATCH : (i + 1) * BATCH]).cpu()
        for i, part in parts
    ]
    return torch.cat(ranks).numpy()
