"""Sparse autoencoder: the losses that keep latents sparse and in use."""

from jaxtyping import Float, Shaped
from torch import Tensor

from mae.config.sections import Config
from mae.objectives.autoencoders.backbones import Backbone, encode_map
from mae.objectives.autoencoders.model import Autoencoder, Noise
from mae.objectives.base import Output, full_precision
from mae.objectives.sparse.bottleneck import L1Bottleneck, TopKBottleneck
from mae.objectives.sparse.declaration import sparse_model


class SparseAutoencoder(Autoencoder[TopKBottleneck | L1Bottleneck]):
    """Autoencoder with many latents of which few are used per image.

    With TopK the second loss is the auxiliary one (Gao et al. 2024, arXiv:2406.04093, appendix
    A.2): dead latents predict what the reconstruction misses.  With L1 it is the mean latent times
    the norm of its outgoing weights, so that latents cannot shrink while these weights grow.  That
    is the whole decoder of the backbone linear; later layers of the others can still grow.
    """

    def __init__(
        self, config: Config, backbone: Backbone, bottleneck: TopKBottleneck | L1Bottleneck
    ) -> None:
        super().__init__(config, backbone, bottleneck)
        model = sparse_model(config)
        is_topk = isinstance(bottleneck, TopKBottleneck)
        self.weight = model.aux_weight if is_topk else model.l1_weight

    def forward(
        self, images: Shaped[Tensor, "b c h w"], noise: Noise, progress: Float[Tensor, ""]
    ) -> Output:
        """Error of the reconstruction, and the loss of sparsity."""
        target = self.normalize(images)
        features = encode_map(self.encoder, target)
        latent = self.bottleneck(features, noise.latent, progress)
        prediction = self.decode_normalized(latent.values, target)
        sparsity = self.sparsity_loss(features, latent.values, target, prediction)
        with full_precision(images.device):
            errors = (prediction.to(target.dtype) - target).square()
            losses = {"reconstruction": errors.mean(), "sparsity": self.weight * sparsity}
            statistics = {"psnr": self.psnr(errors.detach()).mean(), **latent.statistics}
        return Output(losses, statistics, latent.carry)

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
