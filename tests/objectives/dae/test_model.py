"""Denoiser: what its latents are good for."""

import pytest
import torch

from mae.base.errors import UserError
from tests.objectives.autoencoders.small import build, pictures


@torch.no_grad()
def test_latents_are_decoded_only_where_they_hold_the_image():
    residual, plain = build("dae"), build("dae", residual=False)
    with pytest.raises(UserError, match=r"predicts the noise of its input.*denoise\(images\)"):
        residual.decode(residual.latents(pictures()))
    assert torch.equal(plain.decode(plain.latents(pictures())), plain.denoise(pictures()))
