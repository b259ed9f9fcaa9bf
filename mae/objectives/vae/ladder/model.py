"""Variational autoencoder with a ladder of groups as latents."""

from jaxtyping import Float
from torch import Tensor

from mae.objectives.vae.ladder.bottleneck import LadderBottleneck
from mae.objectives.vae.model import VariationalAutoencoder


class LadderAutoencoder(VariationalAutoencoder):
    """Variational autoencoder whose latents are the groups' in a row, in units of their priors."""

    def shaped(self, latents: Float[Tensor, "b n"]) -> Tensor:
        """Latents in a row, as `decode` takes them."""
        return latents

    def decode(self, latents: Float[Tensor, "b n"]) -> Float[Tensor, "b c h w"]:
        """Latents → images in [0, 1]."""
        assert isinstance(self.bottleneck, LadderBottleneck)
        return super().decode(self.bottleneck.states(latents))
