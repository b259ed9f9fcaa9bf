"""Pre-norm transformer on sequences of tokens, with or without a causal mask."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models import checkpoint
from torch import Tensor, nn

from mae.networks.initial_weights import initialize_linears


class SequenceBlock(nn.Module):
    """Self-attention and MLP, each after a norm and added to its input."""

    def __init__(self, dim: int, num_heads: int, is_causal: bool) -> None:
        super().__init__()
        self.num_heads, self.is_causal = num_heads, is_causal
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """[b n d] → [b n d]; with a causal mask each token sees itself and those before."""
        b, n, d = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, n, 3, self.num_heads, d // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal)
        x = x + self.proj(y.transpose(1, 2).reshape(b, n, d))
        return x + self.mlp(self.norm2(x))

    def step(
        self, x: Float[Tensor, "b 1 d"], past: Float[Tensor, "2 b heads n e"], place: int
    ) -> Float[Tensor, "b 1 d"]:
        """`forward` of the token at `place` alone, after those before it.

        `past`: keys and values, of which those at `place` are filled in.
        """
        b, _, d = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, 1, 3, self.num_heads, d // self.num_heads)
        q, past[0, :, :, place], past[1, :, :, place] = qkv.permute(2, 0, 3, 1, 4)[..., 0, :]
        seen = past[..., : place + 1, :]
        y = F.scaled_dot_product_attention(q[..., None, :], seen[0], seen[1])
        x = x + self.proj(y.transpose(1, 2).reshape(b, 1, d))
        return x + self.mlp(self.norm2(x))


class SequenceTransformer(nn.Module):
    """Blocks and a final norm."""

    def __init__(self, dim: int, depth: int, num_heads: int, is_causal: bool) -> None:
        """`dim`: width, a multiple of `num_heads`."""
        super().__init__()
        self.grad_checkpointing = False
        self.dim, self.num_heads = dim, num_heads
        self.blocks = nn.ModuleList(SequenceBlock(dim, num_heads, is_causal) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        initialize_linears(self)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """[b n d] → [b n d], normed."""
        for block in self.blocks:
            x = checkpoint(block, x) if self.grad_checkpointing else block(x)
        return self.norm(x)

    def past(self, batch: int, length: int) -> Float[Tensor, "blocks 2 b heads n e"]:
        """Empty keys and values of `length` tokens, for `step`."""
        shape = len(self.blocks), 2, batch, self.num_heads, length, self.dim // self.num_heads
        return torch.zeros(shape, dtype=self.norm.weight.dtype, device=self.norm.weight.device)

    def step(
        self, x: Float[Tensor, "b 1 d"], past: Float[Tensor, "blocks 2 b heads n e"], place: int
    ) -> Float[Tensor, "b 1 d"]:
        """Output at `place` alone, of a causal transformer; tokens come in their order."""
        for block, own in zip(self.blocks, past, strict=True):
            assert isinstance(block, SequenceBlock)
            x = block.step(x, own, place)
        return self.norm(x)
