"""A decoder of cross-attention only (CrossMAE: Fu et al. 2024, arXiv:2401.14391, section 3).

Hidden patches ask the visible ones and never each other, so any subset of them can be predicted
alone, for less work.  Each block reads its own mixture of the encoder's blocks ("inter-block
attention").  Not equal to the paper's MAE: another model, which its authors found as good.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models import checkpoint
from torch import Tensor, nn

from mae.networks.pixels import gather_tokens
from mae.networks.vit import initialize_linears, sincos_positions
from mae.objectives.mae.decoder import mlp
from mae.objectives.mae.masking import PatchSplit


class CrossAttention(nn.Module):
    """Multi-head attention of `x` to tokens of the encoder, `memory`."""

    def __init__(self, dim: int, memory_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(memory_dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "b m d"], memory: Float[Tensor, "b k e"]
    ) -> Float[Tensor, "b m d"]:
        """What each token of `x` finds in `memory`."""
        b, m, d = x.shape
        heads = (self.num_heads, d // self.num_heads)
        q = self.q(x).view(b, m, *heads).transpose(1, 2)
        k, v = self.kv(memory).view(b, -1, 2, *heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, m, d))


class CrossBlock(nn.Module):
    """Pre-norm block: cross-attention, then the MLP; no self-attention."""

    def __init__(self, dim: int, memory_dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm_memory = nn.LayerNorm(memory_dim, eps=1e-6)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = CrossAttention(dim, memory_dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = mlp(dim)

    def forward(
        self, x: Float[Tensor, "b m d"], memory: Float[Tensor, "b k e"]
    ) -> Float[Tensor, "b m d"]:
        """The tokens of `x`, updated from those of `memory`."""
        x = x + self.attn(self.norm1(x), self.norm_memory(memory))
        return x + self.mlp(self.norm2(x))


class CrossDecoder(nn.Module):
    """Takes what `Decoder` takes, and gives what it gives."""

    def __init__(
        self,
        encoder_dim: int,
        encoder_depth: int,
        dim: int,
        depth: int,
        num_heads: int,
        grid_size: tuple[int, int],
        num_prefix_tokens: int,
        patch_values: int,
    ) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.grad_checkpointing = False
        self.mixture = nn.Parameter(torch.empty(depth, encoder_depth))
        """how much of each of the encoder's blocks every block reads"""
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        positions = sincos_positions(dim, grid_size)
        self.pos_embed = nn.Parameter(positions, requires_grad=False)
        self.blocks = nn.ModuleList(CrossBlock(dim, encoder_dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pred = nn.Linear(dim, patch_values)
        initialize_linears(self)
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.normal_(self.mixture, std=encoder_depth**-0.5)

    def forward(
        self, features: Sequence[Float[Tensor, "b tokens d"]], split: PatchSplit
    ) -> Float[Tensor, "b masked values"]:
        """Predicted pixels of the patches in `split.ids_masked`, each for itself.

        `features`: the tokens after each of the encoder's blocks.
        """
        positions = self.pos_embed.expand(len(split.ids_masked), -1, -1)
        x = self.mask_token + gather_tokens(positions, split.ids_masked)
        memories = torch.einsum("jl,blkd->jbkd", self.mixture, torch.stack(list(features), dim=1))
        for block, memory in zip(self.blocks, memories, strict=True):
            x = checkpoint(block, x, memory) if self.grad_checkpointing else block(x, memory)
        return self.pred(self.norm(x))
