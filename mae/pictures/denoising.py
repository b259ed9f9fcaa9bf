"""Pictures of denoised images: noisy, denoised, what was removed."""

from torch import Tensor

from mae.pictures.drawing import contrast, displayable

REMOVED_TOP = 0.25
"""difference that is drawn as white (or, negative, as black), of 1"""


def denoised_columns(noisy: Tensor, result: Tensor) -> dict[str, Tensor]:
    """Columns of pictures [b c h w] in [0, 1], of integer images and results in [0, 1]."""
    white = 255 if noisy.element_size() == 1 else 65_535
    removed = (noisy.float() / white - result) / contrast(noisy)
    columns = {
        "noisy": displayable(noisy),
        "denoised": displayable(noisy, result),
        f"removed, ±{REMOVED_TOP:g}": 0.5 + removed / (2 * REMOVED_TOP),
    }
    return {name: one.clamp(0, 1).cpu() for name, one in columns.items()}
