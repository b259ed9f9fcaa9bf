"""Transformer decoder: a map of features, one per patch → images."""

import torch
from jaxtyping import Float
from timm.models import checkpoint, vision_transformer
from torch import Tensor, nn

from mae.networks.initial_weights import initialize_linears, sincos_positions
from mae.networks.patches import unpatchify


class VitDecoder(nn.Module):
    """Transformer blocks on all patches, then a linear layer to the pixels of each patch.

    Positions are fixed sine-cosine codes.
    """

    pos_embed: Tensor

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        img_size: tuple[int, int],
        patch_size: tuple[int, int],
        out_chans: int,
    ) -> None:
        """`dim`: width, a multiple of 4 and of `num_heads`."""
        super().__init__()
        self.grad_checkpointing = False
        self.img_size, self.patch_size = img_size, patch_size
        (h, w), (p, q) = img_size, patch_size
        self.in_channels = dim
        positions = sincos_positions(dim, (h // p, w // q))
        self.register_buffer("pos_embed", positions, persistent=False)
        block = vision_transformer.Block
        self.blocks = nn.ModuleList(block(dim, num_heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pred = nn.Linear(dim, p * q * out_chans)
        initialize_linears(self)

    def forward(self, features: Float[Tensor, "b d gh gw"]) -> Float[Tensor, "b c h w"]:
        """[b d h/p w/q] → [b c h w]."""
        x = features.flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x = checkpoint(block, x) if self.grad_checkpointing else block(x)
        return unpatchify(self.pred(self.norm(x)), self.img_size, self.patch_size)

    @torch.no_grad()
    def resize(self, img_size: tuple[int, int]) -> None:
        """Take images of another size, a multiple of the patch size."""
        (h, w), (p, q) = img_size, self.patch_size
        positions = sincos_positions(self.in_channels, (h // p, w // q))
        self.pos_embed = positions.to(self.pos_embed)
        self.img_size = img_size
