"""The head of the paper's linear probe, and what it reads and says of images."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mae.config import Config
from mae.data.batches import batches
from mae.data.images import Images
from mae.data.loader import CentredViews
from mae.evaluation.encoders import FrozenEncoder


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


@torch.no_grad()
def ranks_of_truth(
    head: nn.Module,
    encoder: FrozenEncoder,
    images: Images,
    targets: npt.NDArray[np.int64],
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    workers: int = 0,
) -> npt.NDArray[np.int64]:
    """[n] how many classes score higher than each image's own: 0 is a right answer.

    Each image is seen once, as a centred view.  Raises UserError for one that does not decode.
    """
    views = CentredViews(images, encoder.img_size, encoder.crop_pct)
    starts = range(0, len(views), batch_size)
    slices = [range(start, min(start + batch_size, len(views))) for start in starts]
    ranks = []
    for numbers, batch in zip(slices, batches(views, slices, workers), strict=True):
        logits = head(image_vectors(encoder, batch.to(device)))
        own = torch.from_numpy(targets[numbers.start : numbers.stop]).to(device)
        # A score that is no number is not right.
        ranks.append((~(logits <= logits.gather(1, own[:, None]))).sum(1).cpu())
    return torch.cat(ranks).numpy()
