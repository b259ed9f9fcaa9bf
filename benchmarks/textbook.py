"""The masked autoencoder as in the paper, step by step: a reference for the lean step.

Every patch is projected, then most are dropped; the decoder's tokens are put back in order; all
patches are decoded, predicted and compared, and the visible ones masked out of the mean (paper,
sections 3 and "Simple implementation").
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from mae.networks.pixels import gather_tokens, patch_statistics, patchify
from mae.networks.vit import position_embedding
from mae.objectives.base import Output
from mae.objectives.mae.decoder import Decoder
from mae.objectives.mae.masking import PatchSplit, binary_mask
from mae.objectives.mae.model import MaskedAutoencoder


class TextbookStep(nn.Module):
    """The loss of a `MaskedAutoencoder`, by its own weights, without its savings."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Shaped[Tensor, "b c h w"], noise: PatchSplit) -> Output:
        """Equal to the model's own up to rounding, gradients included."""
        model, (ids_keep, ids_masked) = self.model, noise
        encoder, decoder = model.encoder, model.decoder
        assert isinstance(decoder, Decoder)
        pixels = model.normalize_images(images)

        prefix, positions = encoder.num_prefix_tokens, position_embedding(encoder)
        patches = encoder.patch_embed(pixels) + positions[:, prefix:]
        x = gather_tokens(patches, ids_keep)
        if encoder.cls_token is not None:
            first = encoder.cls_token + positions[:, :1]
            x = torch.cat([first.expand(x.shape[0], -1, -1), x], dim=1)
        latent = encoder.norm(encoder.blocks(x))

        y = decoder.embed(latent)
        hidden = decoder.mask_token.expand(*ids_masked.shape, -1)
        shuffled = torch.cat([y[:, prefix:], hidden.to(y.dtype)], dim=1)
        ids_restore = torch.cat([ids_keep, ids_masked], dim=1).argsort(dim=1)
        y = torch.cat([y[:, :prefix], gather_tokens(shuffled, ids_restore) + decoder.pos_embed], 1)
        for block in decoder.blocks:
            y = block(y)
        prediction = decoder.pred(decoder.norm(y))[:, prefix:]

        return self.loss(pixels, prediction, noise)

    def loss(
        self,
        pixels: Float[Tensor, "b c h w"],
        prediction: Float[Tensor, "b n values"],
        noise: PatchSplit,
    ) -> Output:
        """Of all patches; the mean is taken over the hidden ones."""
        target = patchify(pixels, self.model.patch_size)
        if self.model.norm_pix_loss:
            mean, std = patch_statistics(target)
            target = (target - mean) / std
        mask = binary_mask(noise).to(target.dtype)
        each = (prediction.to(target.dtype) - target).square().mean(dim=-1)
        loss = (each * mask).sum() / mask.sum()
        moments = {"target_mean": target.mean(), "target_square": target.square().mean()}
        return Output(
            {"reconstruction": loss}, {key: one.detach() for key, one in moments.items()}, {}
        )
