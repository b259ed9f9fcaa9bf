"""Decoders of a Masked Autoencoder: the paper's, and CrossMAE's.

`Decoder` (He et al. 2021, section 3, "MAE decoder") works in shuffled order and predicts hidden
patches only.  A transformer without attention masks is permutation-equivariant, so nothing is
un-shuffled: tokens stay [prefix, visible, hidden], with the positions of their patches.  It equals
the paper's formulation up to rounding, with less memory traffic.

`CrossDecoder` has cross-attention only (CrossMAE: Fu et al. 2024, arXiv:2401.14391, section 3).
Hidden patches attend to the visible ones, never to each other, so any subset of them can be
predicted alone, at less cost.  Each block reads its own mixture of the encoder's blocks
("inter-block attention").  This is another model than the paper's MAE, reported to be as good.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models import checkpoint
from torch import Tensor, nn

from mae.networks.initial_weights import initialize_linears, sincos_positions
from mae.networks.patches import gather_tokens
from mae.objectives.mae.masking import PatchSplit


class Attention(nn.Module):
    """Multi-head self-attention, with queries from the last `num_queries` tokens only."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b n d"], num_queries: int) -> Float[Tensor, "b m d"]:
        """Attention output of the last `num_queries` tokens: [b n d] → [b num_queries d]."""
        b, n, d = x.shape
        heads = (self.num_heads, d // self.num_heads)
        if num_queries == n:
            q, k, v = self.qkv(x).view(b, n, 3, *heads).unbind(2)
        else:
            q = F.linear(x[:, n - num_queries :], self.qkv.weight[:d], self.qkv.bias[:d])
            kv = F.linear(x, self.qkv.weight[d:], self.qkv.bias[d:])
            q, (k, v) = q.view(b, num_queries, *heads), kv.view(b, n, 2, *heads).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, num_queries, d))


def mlp(dim: int, ratio: int = 4) -> nn.Sequential:
    """MLP of a transformer block, with timm's names."""
    layers = nn.Sequential()
    layers.add_module("fc1", nn.Linear(dim, ratio * dim))
    layers.add_module("act", nn.GELU())
    layers.add_module("fc2", nn.Linear(ratio * dim, dim))
    return layers


class Block(nn.Module):
    """Pre-norm transformer block, with timm's names."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = mlp(dim)

    def forward(
        self, x: Float[Tensor, "b n d"], num_queries: int | None = None
    ) -> Float[Tensor, "b m d"]:
        """Update the last `num_queries` tokens (None: all) from all tokens."""
        m = x.shape[1] if num_queries is None else num_queries
        x = x[:, x.shape[1] - m :] + self.attn(self.norm1(x), m)
        return x + self.mlp(self.norm2(x))


class Decoder(nn.Module):
    """Decoder of the paper: self-attention among mask tokens and encoded patches.

    The original release's `decoder_embed`, `mask_token`, `decoder_pos_embed`, `decoder_blocks`, …
    are `decoder.embed`, `decoder.mask_token`, … in the state dict of `MaskedAutoencoder`.
    """

    def __init__(
        self,
        encoder_dim: int,
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
        self.fusion: nn.Module | None = None  # of the encoder's stages: see the model
        self.embed = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        positions = sincos_positions(dim, grid_size)
        self.pos_embed = nn.Parameter(positions, requires_grad=False)
        self.blocks = nn.ModuleList(Block(dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pred = nn.Linear(dim, patch_values)
        initialize_linears(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self, features: Sequence[Float[Tensor, "b _ _"]], split: PatchSplit
    ) -> Float[Tensor, "b masked values"]:
        """Predict the pixels of the hidden patches, in the order of `split.ids_masked`.

        `features`: tokens after each block of the encoder, of which the last are used.
        """
        b, masked = split.ids_masked.shape
        positions = self.pos_embed.expand(b, -1, -1)
        x = self.embed(features[-1])
        prefix, visible = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
        visible = visible + gather_tokens(positions, split.ids_keep)
        hidden = self.mask_token + gather_tokens(positions, split.ids_masked)
        x = torch.cat([prefix.to(hidden.dtype), visible.to(hidden.dtype), hidden], dim=1)
        *earlier, last = self.blocks
        for block in earlier:
            x = checkpoint(block, x) if self.grad_checkpointing else block(x)
        # Only hidden patches reach the head, so only they need the output of the last block.
        x = last(x, num_queries=masked)
        return self.pred(self.norm(x))


class CrossAttention(nn.Module):
    """Multi-head cross-attention of `x` to the encoder's tokens, `memory`."""

    def __init__(self, dim: int, memory_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(memory_dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "b m d"], memory: Float[Tensor, "b k e"]
    ) -> Float[Tensor, "b m d"]:
        """Attention output for each token of `x`."""
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
        """Update the tokens of `x` from those of `memory`."""
        x = x + self.attn(self.norm1(x), self.norm_memory(memory))
        return x + self.mlp(self.norm2(x))


class CrossDecoder(nn.Module):
    """Decoder of CrossMAE, with the arguments and the output of `Decoder`."""

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
        self.fusion: nn.Module | None = None
        self.mixture = nn.Parameter(torch.empty(depth, encoder_depth))
        """weights of the encoder's blocks (columns) in the memory of each block (rows)"""
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
        """Predict the pixels of the patches of `split.ids_masked`, independently of each other.

        `features`: tokens after each block of the encoder.
        """
        positions = self.pos_embed.expand(len(split.ids_masked), -1, -1)
        x = self.mask_token + gather_tokens(positions, split.ids_masked)
        memories = torch.einsum("jl,blkd->jbkd", self.mixture, torch.stack(list(features), dim=1))
        for block, memory in zip(self.blocks, memories, strict=True):
            x = checkpoint(block, x, memory) if self.grad_checkpointing else block(x, memory)
        return self.pred(self.norm(x))
