"""Initial weights of Vision Transformers, as in the paper (He et al. 2021, appendix A.1)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def initialize_linears(module: nn.Module) -> None:
    """Initialise linear layers Xavier-uniform with zero bias, LayerNorms with weight 1, bias 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm) and part.elementwise_affine:
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


def initialize_projection(projection: nn.Conv2d) -> None:
    """Initialise a patch projection as a linear layer of the pixels under its kernel."""
    nn.init.xavier_uniform_(projection.weight.view(projection.out_channels, -1))
    if projection.bias is not None:
        nn.init.zeros_(projection.bias)


def sincos_positions(
    dim: int, grid_size: tuple[int, int], num_prefix_tokens: int = 0
) -> Float[Tensor, "1 tokens dim"]:
    """Sine-cosine position embeddings [1, prefix + rows·columns, dim].

    The first half of the width codes the column, as in the released MAE weights, the second the
    row.  Each half is the one-dimensional code of "Attention is all you need" (section 3.5), sines
    first.  Prefix tokens (class token, registers) are zero.  Raises ValueError where `dim` is not a
    multiple of 4.
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
