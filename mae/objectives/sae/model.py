"""Sparse autoencoder on the patch tokens of a frozen encoder, which stream from the images."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from mae.base.errors import UserError
from mae.evaluation.token_pca import TokenPca
from mae.networks.vit import encoder_shape, timm_encoder
from mae.objectives.base import Features, Merge, Objective, Output, StepEnd
from mae.objectives.capabilities import PatchLatents
from mae.objectives.frozen import Frozen
from mae.objectives.sae.dictionary import TokenDictionary


class TokenSparseAutoencoder(Objective):
    """Frozen encoder, images → tokens, and the sparse autoencoder of the tokens."""

    def __init__(self, encoder: Objective, dictionary: TokenDictionary) -> None:
        """`encoder`: its `encode` has patch tokens."""
        super().__init__()
        self.frozen = Frozen(encoder)
        self.dictionary = dictionary
        self.img_size = encoder.img_size
        self.pca: TokenPca | None = None
        """fitted at the first evaluation on held-out images"""

    @property
    def merges(self) -> Mapping[str, Merge]:  # pyrefly: ignore
        """Merges of the dictionary's carry."""
        return self.dictionary.merges

    def draw(
        self,
        images: Shaped[Tensor, "b c h w"],
        seeds: Int[Tensor, " b"],
        labels: Int[Tensor, " b"] | None = None,
    ) -> None:
        """Draw nothing: there is no randomness besides the views of the images."""

    def forward(
        self, images: Shaped[Tensor, "b c h w"], noise: None, progress: Float[Tensor, ""]
    ) -> Output:
        """Losses of the dictionary on the tokens."""
        return self.dictionary(self.tokens(images))

    @torch.no_grad()
    def tokens(self, images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b t d"]:
        """Patch tokens of the frozen encoder."""
        encoder = self.frozen.module
        assert isinstance(encoder, Objective)
        tokens = encoder.encode(images).tokens
        assert tokens is not None
        return tokens

    def latents(self, images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b t n"]:
        """Sparse latents of each patch, in the units of the tokens."""
        return self.dictionary.latents(self.tokens(images))

    def patch_latents(self, images: Shaped[Tensor, "b c h w"]) -> PatchLatents:
        """Latents, tokens and their reconstructions; raises UserError where there is no grid."""
        tokens = self.tokens(images)
        latents = self.dictionary.latents(tokens)
        again = self.dictionary.decode(latents)
        return PatchLatents(latents, tokens, again, self.grid(tokens.shape[1]))

    def grid(self, tokens: int) -> tuple[int, int]:
        """Rows and columns of the patches: the encoder's, or else in the images' proportions.

        Raises UserError where there is no such grid.
        """
        vit = timm_encoder(self.frozen.module)
        if vit is not None and encoder_shape(vit).num_patches == tokens:
            return encoder_shape(vit).grid_size
        height, width = self.img_size
        for rows in range(1, tokens + 1):
            if tokens % rows == 0 and rows * width == tokens // rows * height:
                return rows, tokens // rows
        raise UserError(f"{tokens} tokens are no grid of patches of images of {height} x {width}")

    def encode(self, images: Shaped[Tensor, "b c h w"]) -> Features:
        """Means over the patches of latents, of reconstructed tokens and of the tokens."""
        tokens = self.tokens(images)
        latents = self.dictionary.latents(tokens)
        again = self.dictionary.decode(latents)
        named = {"latent": latents, "reconstruction": again, "token": tokens}
        return Features({name: values.float().mean(dim=1) for name, values in named.items()})

    def encoder_module(self) -> nn.Module:
        """Frozen encoder and dictionary."""
        return nn.ModuleList([self.frozen.module, self.dictionary])

    def after_step(self, step: StepEnd) -> None:
        """Update the dictionary's buffers."""
        self.dictionary.after_step(step)
