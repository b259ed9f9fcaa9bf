"""A linear autoencoder finds PCA's subspace (Baldi and Hornik 1989)."""

import torch

from mae.objectives.autoencoders.baselines import fit_pca
from tests.objectives.autoencoders.small import DONE, build


def test_a_linear_autoencoder_spans_the_principal_components():
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([30.0, 24.0, 20.0] + [2.0] * 13, dtype=torch.float64)
    directions = torch.linalg.qr(torch.randn(256, 16, generator=generator).double()).Q
    rows = torch.randn(200, 16, generator=generator).double() * scales @ directions.T
    images = rows.view(200, 1, 16, 16)
    model = build("ae", backbone="linear", latent_dim=3).double()
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=200,
        tolerance_grad=1e-14,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(images, model.draw(images, torch.arange(200)), DONE).losses["reconstruction"]
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    pca = fit_pca(images, 3, (16, 16))
    projected = (rows - pca.mean) @ pca.basis.T @ pca.basis + pca.mean
    made = model.decoder(model.from_latent(model.latents(images))).flatten(1)
    assert (made - projected).norm() < 1e-4 * projected.norm()
    learned = torch.linalg.qr(model.from_latent.layer.weight.detach()).Q
    overlap = torch.linalg.svdvals(learned.T @ pca.basis.T)
    torch.testing.assert_close(overlap, torch.ones(3).double(), rtol=0, atol=1e-6)
