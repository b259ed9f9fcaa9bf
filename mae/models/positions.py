"""Fixed two-dimensional sine-cosine positions."""

import torch
from jaxtyping import Float
from torch import Tensor


def sincos_positions(
    dim: int, grid_size: tuple[int, int], num_prefix_tokens: int = 0
) -> Float[Tensor, "1 tokens dim"]:
    """[1, prefix + rows·columns, dim]: half the width codes the column, half the row.

    Each half is the one-dimensional code of "Attention is all you need" (section 3.5), sines
    first.  Prefix tokens (class token, registers) are at zero.  The column comes first, as in
    the released MAE weights.  Raises ValueError where `dim` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"sine-cosine positions need a width divisible by 4, not {dim}")
    rows, columns = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) for n in grid_size), indexing="ij"
    )
    frequencies = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = [axis.reshape(-1, 1) * frequencies for axis in (columns, rows)]
    code = torch.cat([part for a in angles for part in (a.sin(), a.cos())], dim=1)
    prefix = torch.zeros(num_prefix_tokens, dim, dtype=torch.float64)
    return torch.cat([prefix, code])[None].float()
