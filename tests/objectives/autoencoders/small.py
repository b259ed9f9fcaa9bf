"""Small autoencoders for tests: 16 px, one channel."""

from typing import Any

import torch

from mae.config.sections import Config
from mae.objectives.base import FirstStage, Objective
from mae.objectives.prior.model import CodePrior
from mae.objectives.prior.settings import PriorModel
from mae.objectives.registry import config_type, implementation

VIT = {
    "backbone": "vit",
    "patch_size": 4,
    "encoder_kwargs": {"embed_dim": 16, "depth": 1, "num_heads": 2},
    "decoder_depth": 1,
}


def small_config(name: str, channels: int = 1, bits: int = 8, **model: Any) -> Config:
    """Settings of objective `name` for images of 16 px."""
    data = {
        "img_size": 16,
        "in_chans": channels,
        "bits": bits,
        "mean": [0.4] * channels,
        "std": [0.3] * channels,
    }
    model = {"width": 8, **model} if model.get("backbone") != "vit" else {**VIT, **model}
    settings = {"objective": name, "data": data, "model": model}
    return config_type(name).model_validate(settings)


def build(name: str, channels: int = 1, bits: int = 8, **model: Any) -> Any:
    """Objective `name` with small networks, initialised from seed 0."""
    torch.manual_seed(0)
    config = small_config(name, channels, bits, **model)
    built: Objective = implementation(name).build(config)
    return built.eval()


def small_prior(tokenizer: str = "vqvae", **model: Any) -> CodePrior:
    """Prior over 16 positions and 16 codes of a tokenizer that has learned nothing.

    Of vqvae2 over 4 positions more, the top level's.
    """
    config = small_config(tokenizer, latent_dim=4, codebook_size=16)
    stage = FirstStage(config, build(tokenizer, latent_dim=4, codebook_size=16), "")
    return CodePrior(stage, PriorModel(dim=16, num_heads=2, **model))


def pictures(count: int = 6, channels: int = 1, bits: int = 8) -> torch.Tensor:
    """Random smooth images, integers [count channels 16 16]."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=16, mode="bicubic").clamp(0, 1)
    values = (smooth * (2**bits - 1)).round().to(torch.int32)
    return values.to(torch.uint8 if bits == 8 else torch.uint16)


def seeds(count: int = 6) -> torch.Tensor:
    """Seeds of the samples, int64 [count]."""
    return torch.arange(1, count + 1) * 7919


NO_PROGRESS = torch.zeros(())
DONE = torch.ones(())
