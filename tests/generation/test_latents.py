from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mae.base.errors import UserError
from mae.generation.latents import angle_degrees, in_batches, latent_path, open_latents
from mae.objectives.registry import OBJECTIVES, declaration
from mae.pretrained_weights.licence import Licence
from mae.pretrained_weights.opened import OpenedModel
from tests.objectives.autoencoders.small import build, pictures, small_config, small_prior

DECODING = ("ae", "dae", "sparse", "vae", "beta_vae", "aae", "ladder", "kl")
"""kl last: its networks take 15 s to import"""
RUN = Path("run")
SPHERES = ("vae", "beta_vae", "aae", "ladder")


def opened(name, channels=1, bits=8, **model):
    config = small_config(name, channels, bits, **model)
    return OpenedModel(config, build(name, channels, bits, **model), None, True, Licence())


@pytest.mark.parametrize("name", DECODING[:-1])
def test_latents_of_images_decode_to_their_reconstruction(name):
    model = opened(name, **({"residual": False} if name == "dae" else {}))
    space = open_latents(model, RUN, "interpolate", "cpu")
    images = pictures(5)
    latents = space.encode(images)
    assert latents.shape == (5, space.numbers)
    objective: Any = model.objective
    expected = objective.decode(objective.latents(images))
    assert torch.allclose(space.decode(latents), expected, atol=1e-5)
    assert space.path == ("sphere" if name in SPHERES else "line")


def test_every_objective_says_whether_it_has_latents_to_decode():
    having = {name for name in OBJECTIVES if "latents to decode" in declaration(name).offers}
    assert having == set(DECODING)
    assert declaration("kl").latent_path(small_config("kl", width=32)) == "line"


@pytest.mark.parametrize("name", ["vqvae", "vqvae2", "fsq"])
def test_there_is_nothing_between_codes(name):
    with pytest.raises(UserError, match=r"run: mae edit: its latents are codes, and there is noth"):
        open_latents(opened(name), RUN, "edit", "cpu")


def test_a_denoiser_that_predicts_noise_has_no_latents_of_images():
    with pytest.raises(UserError, match="predicts the noise of its input"):
        open_latents(opened("dae"), RUN, "edit", "cpu")


def test_objectives_without_latents_are_refused():
    prior = small_prior()
    config = small_config("ae").model_copy(update={"objective": "prior"})
    model = OpenedModel(config, prior, None, True, Licence())
    with pytest.raises(UserError, match="objective prior has no latents to decode; mae edit needs"):
        open_latents(model, RUN, "edit", "cpu")


def test_latents_without_a_prior_lie_on_lines():
    assert open_latents(opened("vae", beta=1e-6), RUN, "interpolate", "cpu").path == "line"


def test_the_result_of_an_image_does_not_depend_on_the_others():
    space = open_latents(opened("vae"), RUN, "interpolate", "cpu")
    images = pictures(20)
    latents = space.encode(images)
    assert torch.equal(latents[3:5], space.encode(images[3:5]))
    assert torch.equal(space.decode(latents)[17], space.decode(latents[17:18])[0])
    sizes = []
    found = in_batches(lambda part: (sizes.append(len(part)), part + 1)[1], torch.arange(37))
    assert torch.equal(found, torch.arange(37) + 1) and set(sizes) == {16}


def test_spherical_paths_are_those_of_rotations():
    rng = np.random.default_rng(0)
    first, second = torch.tensor(rng.normal(size=(2, 6)), dtype=torch.float32)
    first, second = first / first.norm(), 3 * second / second.norm()
    path = latent_path(first, second, [0, 0.25, 0.5, 1], "sphere")
    assert torch.allclose(path[[0, -1]], torch.stack([first, second]), atol=1e-6)
    whole = angle_degrees(first, second)
    assert angle_degrees(first, latent_path(first, second / 3, [0.25], "sphere")[0]) == (
        pytest.approx(whole / 4, abs=1e-3)
    )
    unit = latent_path(first, second / 3, [0.1, 0.5, 0.9], "sphere")
    assert torch.allclose(unit.norm(dim=1), torch.ones(3), atol=1e-6)
    line = latent_path(first, second / 3, [0.5], "line")[0]
    assert torch.equal(line, (first + second / 3) / 2) and line.norm() < 0.99


@pytest.mark.parametrize("factor", [2.0, -1.0, 0.0])
def test_without_a_great_circle_the_path_is_straight(factor):
    first = torch.tensor([1.0, 2.0, 3.0])
    path = latent_path(first, factor * first, [0, 0.5, 1], "sphere")
    assert torch.allclose(path[1], (1 + factor) / 2 * first, atol=1e-6)


@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (2, 16), (5, 16)])
def test_any_number_of_channels_and_bits(channels, bits):
    space = open_latents(opened("vae", channels, bits), RUN, "interpolate", "cpu")
    images = pictures(17, channels, bits)
    decoded = space.levels(space.decode(space.encode(images)))
    assert decoded.dtype == images.dtype and decoded.shape == images.shape
