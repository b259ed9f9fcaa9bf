"""Learning rate as a pure function of how far the run is."""

import math


def scaled_lr(blr: float, batch_size: int) -> float:
    """Linear scaling rule (Goyal et al. 2017): `blr` is given per 256 images of a step."""
    return blr * batch_size / 256


def lr_at(epoch: float, *, lr: float, min_lr: float, warmup_epochs: float, epochs: float) -> float:
    """Linear warm-up from 0, then half a cosine to `min_lr` (paper, appendix A.1).

    `epoch` is fractional: samples seen so far over samples in the data set.
    """
    if epoch < warmup_epochs:
        return lr * epoch / warmup_epochs
    progress = min(1.0, (epoch - warmup_epochs) / (epochs - warmup_epochs))
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
