"""Members: what each is compared with, and which of its figures are shown."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.autoencoders.coding import coders
from benchmarks.autoencoders.data_sets import Images
from benchmarks.autoencoders.denoising import denoised_kodak, denoisers
from mae.config.sections import Config

Baselines = Callable[[Config, Callable[[], Images], Mapping[str, Any]], dict[str, float]]
"""(settings, loader of the images, last row of health.jsonl) → baselines by name"""


class Member(NamedTuple):
    """Comparison of a member: baselines, and the figure that they are compared in."""

    baselines: Baselines
    figure: str = "psnr"
    """column of health.jsonl that is compared with the baselines"""
    unit: str = "dB"
    further: tuple[str, ...] = ()
    """further columns of health.jsonl that are shown"""
    first: tuple[str, str] | None = None
    """row that is trained before it with the same seed, and the setting that names its run"""
    on_kodak: Callable[[Path, Path], dict[str, float]] | None = None
    """(run, folder of the Kodak images) → figures on them"""


def measured(**columns: str) -> Baselines:
    """Baselines that the run itself measured: name → column of health.jsonl."""
    return lambda config, load, row: {name: row[column] for name, column in columns.items()}


PCA = measured(**{"PCA": "psnr_pca", "mean image": "psnr_mean_image"})
MEMBERS = {
    "ae": Member(PCA, further=("probe",)),
    "dae": Member(denoisers, on_kodak=denoised_kodak),
    "sparse": Member(PCA, further=("active_latents", "dead_latents", "probe")),
    "vae": Member(PCA, further=("active", "kl_nats", "bits", "probe")),
    "beta_vae": Member(PCA, further=("active", "kl_nats")),
    "aae": Member(
        PCA, further=("std_smallest", "std_largest", "mean_largest", "ks", "ks_largest", "probe")
    ),
    "ladder": Member(PCA, further=("active", "kl_nats_1", "kl_nats_2", "bits")),
    "vqvae": Member(coders, further=("usage", "perplexity", "bits_per_pixel")),
    "vqvae2": Member(
        coders, further=("usage_top", "usage_bottom", "psnr_top", "psnr_bottom", "bits_per_pixel")
    ),
    "fsq": Member(coders, further=("usage", "perplexity", "bits_per_pixel")),
    "kl": Member(
        measured(**{"patch-PCA": "psnr_pca", "bicubic": "psnr_bicubic"}),
        further=(
            *(f"ssim{name}" for name in ("", "_pca", "_bicubic")),
            *(f"high_frequency{name}" for name in ("", "_pca", "_bicubic")),
            *("latent_std", "dead_channels", "max_z"),
        ),
    ),
    "prior": Member(
        measured(frequencies="bits_marginal"),
        figure="bits",
        unit="bits per code",
        further=("bits_per_pixel",),
        first=("vqvae", "model.tokenizer"),
    ),
    "prior/vqvae2": Member(
        measured(frequencies="bits_marginal"),
        figure="bits",
        unit="bits per code",
        further=("bits_top", "bits_marginal_top", "bits_bottom", "bits_marginal_bottom"),
        first=("vqvae2", "model.tokenizer"),
    ),
}


def member_of(row: str) -> str:
    """`vqvae/plain` → `vqvae`."""
    return row.partition("/")[0]


def comparison_of(row: str) -> Member:
    """Comparison of a row: its own entry, else that of its member."""
    return MEMBERS.get(row) or MEMBERS[member_of(row)]
