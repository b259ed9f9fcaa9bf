"""Sparse autoencoder: the losses that keep latents sparse and in use."""

from jaxtyping import Float, Shaped
from torch import Tensor

from mae.config.sections import Config
from mae.networks.patches import patchify
from mae.objectives.autoencoders.backbones import Backbone, encode_map
from mae.objectives.autoencoders.model import Autoencoder
from mae.objectives.capabilities import PatchLatents
from mae.objectives.sparse.bottleneck import L1Bottleneck, TopKBottleneck
from mae.objectives.sparse.declaration import sparse_model


class SparseAutoencoder(Autoencoder[TopKBottleneck | L1Bottleneck]):
    """Autoencoder with many latents of which few are used per image.

    With TopK the second loss is the auxiliary one (Gao et al. 2024, arXiv:2406.04093, appendix
    A.2): dead latents predict what the reconstruction misses.  With L1 it is the mean latent times
    the norm of its outgoing weights, so that latents cannot shrink while these weights grow: for
    the backbone linear, which has no further layers that could.
    """

    def __init__(
        self, config: Config, backbone: Backbone, bottleneck: TopKBottleneck | L1Bottleneck
    ) -> None:
        super().__init__(config, backbone, bottleneck)
        model = sparse_model(config)
        is_topk = isinstance(bottleneck, TopKBottleneck)
        self.weight = model.aux_weight if is_topk else model.l1_weight

    def patch_latents(self, images: Shaped[Tensor, "b c h w"]) -> PatchLatents:
        """Sizes of the latents, and the normalised pixels of the patches that they stand for.

        Latents of a vector stand for the whole image.
        """
        pixels = self.normalize(images)
        latents = self.bottleneck.encode(encode_map(self.encoder, pixels))
        again = self.decode_normalized(latents, pixels)
        sizes = latents.abs() if latents.ndim == 4 else latents.abs()[..., None, None]
        rows, columns = sizes.shape[2:]
        side = pixels.shape[2] // rows, pixels.shape[3] // columns
        return PatchLatents(
            sizes.flatten(2).transpose(1, 2),
            patchify(pixels, side),
            patchify(again.to(pixels.dtype), side),
            (rows, columns),
        )

    def further_losses(
        self,
        features: Float[Tensor, "b d gh gw"],
        latents: Tensor,
        target: Float[Tensor, "b c h w"],
        prediction: Float[Tensor, "b c h w"],
    ) -> dict[str, Tensor]:
        """Loss of sparsity."""
        loss = self.sparsity_loss(features, latents, target, prediction)
        return {"sparsity": self.weight * loss}

    def sparsity_loss(
        self,
        features: Float[Tensor, "b d gh gw"],
        latents: Tensor,
        target: Float[Tensor, "b c h w"],
        prediction: Float[Tensor, "b c h w"],
    ) -> Float[Tensor, ""]:
        """Auxiliary loss of dead latents, or the L1 penalty; without its weight."""
        if isinstance(self.bottleneck, L1Bottleneck):
            norms = self.from_latent.layer.weight.flatten(1).square().sum(dim=0).sqrt()
            return (latents.movedim(1, -1) * norms).mean()
        dead = self.bottleneck.dead(features)
        residual = (target - prediction).detach()
        missing = self.decode_normalized(dead.values, target)
        return dead.any_dead * (missing.to(residual.dtype) - residual).square().mean()
