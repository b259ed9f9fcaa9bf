"""Pre-norm transformer on sequences of tokens, with or without a causal mask."""

import torch.nn.functional as F
from jaxtyping import Float
from timm.models import checkpoint
from torch import Tensor, nn

from mae.networks.vit import initialize_linears


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


class SequenceTransformer(nn.Module):
    """Blocks and a final norm."""

    def __init__(self, dim: int, depth: int, num_heads: int, is_causal: bool) -> None:
        """`dim`: width, a multiple of `num_heads`."""
        super().__init__()
        self.grad_checkpointing = False
        self.blocks = nn.ModuleList(SequenceBlock(dim, num_heads, is_causal) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        initialize_linears(self)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """[b n d] → [b n d], normed."""
        for block in self.blocks:
            x = checkpoint(block, x) if self.grad_checkpointing else block(x)
        return self.norm(x)
