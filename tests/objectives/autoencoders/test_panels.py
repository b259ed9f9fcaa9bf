"""Panels and sheets of reconstructions of every autoencoder."""

from typing import Any

import numpy as np
import pytest
import torch

from mae.objectives.registry import declaration, implementation
from mae.pictures.reconstruction import ReconstructionRequest, psnr, reconstruct
from tests.objectives.autoencoders.recipes import NAMES
from tests.objectives.autoencoders.small import build, pictures, seeds, small_config
from tests.pictures.loaded import LoadedImages

MEMBERS = tuple(name for name in NAMES if name not in ("prior", "noise2void", "sae"))


def panel(name: str, model, images: torch.Tensor) -> np.ndarray:
    drawn = implementation(name).panel(model, images, seeds(len(images)), "step 3")
    assert drawn is not None
    return np.asarray(drawn)


@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (3, 8), (5, 16)])
@pytest.mark.parametrize("name", MEMBERS)
@torch.no_grad()
def test_a_panel_shows_the_same_images_and_noise_each_time(name, channels, bits):
    model, images = build(name, channels, bits), pictures(2, channels, bits)
    first = panel(name, model, images)
    assert np.array_equal(first, panel(name, model, images))
    for weight in model.parameters():
        weight.mul_(1.05)
    changed = panel(name, model, images)
    width, height = 128, 20 + 20 + 128
    columns = [first[40:height, 4 + 132 * at : 4 + 132 * at + width] for at in range(2)]
    again = [changed[40:height, 4 + 132 * at : 4 + 132 * at + width] for at in range(2)]
    assert np.array_equal(columns[0], again[0])  # the original
    assert np.array_equal(columns[1], again[1]) == (name == "dae")  # the noise, or its result
    assert not np.array_equal(first, changed)


def asked(images: torch.Tensor, name: str, **options) -> ReconstructionRequest:
    measured = LoadedImages(images, seeds(len(images)))
    plain = ReconstructionRequest(
        images[:2], ["0", "1"], measured.seeds[:2], measured, "title", name, None, (), ()
    )
    return plain._replace(**options)


def test_a_denoiser_is_compared_with_its_noisy_input():
    model, images = build("dae", strength=0.2), pictures(5)
    made = reconstruct(model, asked(images, "dae"))
    assert made.sheet.heads == ["original", "input", "denoised", "error"]
    noise = model.draw(images, seeds(5)).corruption
    truth = images.double() / 255
    noisy = (truth + 0.2 * noise.double()).clamp(0, 1)
    expected = psnr((noisy - truth).square().mean(dim=(1, 2, 3)))
    assert made.figures["psnr_input"] == pytest.approx(expected.mean().item(), abs=1e-4)
    assert made.sheet.rows[1][1].caption == f"PSNR {expected[1]:.1f} dB"
    assert any(line.startswith("  corrupted input") for line in made.lines)


@pytest.mark.parametrize(("name", "bits"), [("vqvae", 7), ("fsq", 7.6439)])
def test_codes_and_bits_per_pixel_are_on_the_sheet(name, bits):
    settings: dict[str, Any] = {"codebook_size": 128} if name == "vqvae" else {"levels": (8, 5, 5)}
    model, images = build(name, **settings), pictures(4)
    own = implementation(name)
    made = own.reconstruct(model, asked(images, name))
    assert made is not None and made.sheet.heads == ["original", "reconstruction", "error", "codes"]
    assert made.figures["bits_per_pixel"] == pytest.approx(16 * bits / 256, abs=1e-4)
    assert any(line.startswith("  bits per pixel of the codes") for line in made.lines)
    chosen = own.reconstruct(model, asked(images, name, columns=["codes"]))
    assert chosen is not None and chosen.sheet.heads == ["codes"]
    shown = np.asarray(chosen.sheet.rows[0][0].picture)
    codes = model.codes(images)[0]
    same = codes.flatten()[:, None] == codes.flatten()[None]
    colours = torch.from_numpy(shown[::4, ::4].reshape(-1, 3).astype(int))
    assert torch.equal(same, (colours[:, None] == colours[None]).all(dim=-1))


@pytest.mark.parametrize("name", MEMBERS)
def test_the_card_names_held_out_results_and_runs_its_example(name):
    health = {"step": 3, "images": 7, "psnr": 25.0, "psnr_pca": 20.0, "psnr_noisy": 14.0}
    rows = dict(declaration(name).results({"step": 3, "loss": 0.1}, health))
    shown = rows["PSNR of 7 held-out images, step 3"]
    assert "model 25.00 dB" in shown and "PCA" in shown and "20.00 dB" in shown
    assert ("noisy image 14.00 dB" in shown) == (name == "dae")
    assert "PSNR of" not in str(declaration(name).results({"step": 3, "loss": 0.1}, {}))
    code = declaration(name).card(small_config(name), is_from_scratch=True).code
    scope: dict[str, Any] = {"objective": build(name), "images": pictures(1), "torch": torch}
    exec(code, scope)  # the lines that the model card prints
    made = {"dae": "clean"}.get(name, "again")
    assert scope[made].shape == (1, 1, 16, 16)
