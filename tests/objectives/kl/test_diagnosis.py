"""Held-out figures of a KL autoencoder, and the findings on them."""

from typing import Any

import numpy as np
import pytest
import torch

from mae.evaluation.image_quality import high_frequency_energy, ssim, through_bicubic
from mae.objectives.autoencoders.baselines import Baselines, fit_pca
from mae.objectives.kl.diagnosis import about_baseline, about_latents
from mae.objectives.kl.implementation import KlImplementation
from tests.objectives.autoencoders.small import build, pictures, seeds


def test_figures_of_two_batches_are_those_of_all_images():
    model, images, own = build("kl", stages=2, depth=1), pictures(), KlImplementation()
    truth = images.float() / 255
    model.baselines = Baselines(truth.mean(0), fit_pca(truth, 4, (4, 4)), len(images))
    parts = [own.own_sums(model, images[at], seeds()[at]) for at in (slice(2), slice(2, 6))]
    added = len(parts[0]) - own.maxima(model)
    rows = np.array(parts)
    totals = np.concatenate([rows[:, :added].sum(0), rows[:, added:].max(0)])
    found = own.own_figures(model, totals, len(images))
    made = model.reconstruct(images, model.draw(images, seeds())).pasted
    assert found["ssim"] == pytest.approx(ssim(made, truth).mean().item(), abs=1e-5)
    energy = high_frequency_energy(made).sum() / high_frequency_energy(truth).sum()
    assert found["high_frequency"] == pytest.approx(energy.item(), rel=1e-4)
    bicubic = through_bicubic(truth, 64)
    errors = (bicubic - truth).square().mean((1, 2, 3))
    assert found["psnr_bicubic"] == pytest.approx((-10 * errors.log10()).mean().item(), abs=1e-3)
    with torch.no_grad():
        noise = model.draw(images, seeds())
        drawn = model.posterior_sample(model.normalize(images), noise, torch.ones(())).values
    channels = drawn.movedim(1, 0).flatten(1)
    assert found["latent_std"] == pytest.approx(drawn.std(correction=0).item(), rel=1e-4)
    assert found["latent_channel_std"] == pytest.approx(
        channels.std(dim=1, correction=0).tolist(), rel=1e-4
    )
    means = model.latents(images).movedim(1, 0).flatten(1) - channels.mean(1, keepdim=True)
    z = (means.abs().amax(dim=1) / channels.std(dim=1, correction=0)).max()
    assert found["max_z"] == pytest.approx(z.item(), rel=1e-3)
    assert found["dead_channels"] == 0 and "scaled_std" not in found


GOOD = {"psnr": 25.0, "psnr_pca": 23.0, "scaled_std": 1.0, "dead_channels": 0, "max_z": 8.0}
BAD = [
    ({"psnr": 23.9}, "less than 1 dB better than PCA"),
    ({"scaled_std": 1.2}, "1.20 times the standard deviation of training"),
    ({"dead_channels": 2}, "2 channels of the latents are dead"),
    ({"max_z": 31.0}, "lies 31 standard deviations"),
]


def titles(row: dict[str, Any]) -> list[str]:
    return [one.text for find in (about_baseline, about_latents) for one in find(row)]


@pytest.mark.parametrize(("change", "title"), BAD, ids=lambda one: str(one)[:20])
def test_each_finding_has_its_threshold(change, title):
    assert titles(GOOD) == [] == titles({})
    (found,) = titles({**GOOD, **change})
    assert title in found
