"""Codecs that have learned nothing, as runs: codes are codes."""

from pathlib import Path

from mae.objectives.registry import config_type
from mae.training.checkpoint.trained import build_objective, keep_first_stage
from tests.objectives.autoencoders.small import small_config
from tests.untrained import untrained_run

SIZES = {
    "vqvae": {"latent_dim": 4, "codebook_size": 16},
    "vqvae2": {"latent_dim": 4, "codebook_size": 16},
    "fsq": {"levels": [4, 3, 3]},
}


def codec_run(folder: Path, name: str, channels: int = 3, bits: int = 8, **model) -> Path:
    """Run of a member with codes, for images of 16 px."""
    return untrained_run(folder, small_config(name, channels, bits, **SIZES[name], **model))


def prior_run(folder: Path, tokenizer: Path, kind: str = "causal") -> Path:
    """Run of a prior over the codes of a run of 3 channels."""
    model = {"tokenizer": tokenizer, "kind": kind, "dim": 16, "depth": 1, "num_heads": 2}
    data = {"img_size": 16, "mean": [0.4] * 3, "std": [0.3] * 3}
    settings = {"objective": "prior", "data": data, "model": model}
    config = config_type("prior").model_validate(settings)
    run = untrained_run(folder, config)
    keep_first_stage(build_objective(config), run)
    return run
