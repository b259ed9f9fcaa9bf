"""Every recipe of the autoencoders, made small, run in this process or in two."""

import contextlib
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mae.objectives.registry import implementation
from mae.pretrain import main
from tests.runs import final_weights, metrics_of

NAMES = (
    "ae",
    "dae",
    "noise2void",
    "sparse",
    "vae",
    "beta_vae",
    "ladder",
    "vqvae",
    "vqvae2",
    "fsq",
    "aae",
    "prior",
    "kl",
    "sae",
)

SOURCES = {"prior": "model.tokenizer", "sae": "model.encoder"}
"""member with a frozen first stage → setting that names it"""

RECIPES = Path(__file__).parents[3] / "configs" / "autoencoders"

SHARED = [
    "train.epochs=1.2",
    "train.batch_size=8",
    "train.checkpoint_every=100",
    "optim.warmup_epochs=0.3",
    "data.workers=0",
    "log.every=1",
    "log.panel_every=0",
    "log.wandb=false",
]
"""8 steps of 8 images"""

CONV = ["data.img_size=16", "model.width=8", "model.depth=1"]

VIT = [
    "data.img_size=16",
    "model.backbone=vit",
    "model.patch_size=4",
    "model.encoder_kwargs={embed_dim: 16, depth: 1, num_heads: 2}",
    "model.decoder_depth=1",
]

SMALL = {
    "ae": ["model.latent_dim=8"],
    "dae": ["model.latent_dim=4", "model.strength=0.2"],
    "noise2void": ["model.stages=1", "model.allow_correlated=true"],
    "sparse": ["model.latent_dim=32", "model.k=4", "model.aux_k=4", "model.dead_after=16"],
    "vae": ["model.latent_dim=8"],
    "beta_vae": ["model.latent_dim=8"],
    "aae": ["model.latent_dim=8", "model.critic_width=16"],
    "ladder": ["model.groups=[2,3]"],
    "vqvae": [
        "model.latent_dim=4",
        "model.codebook_size=32",
        "model.codebook_decay=0.7",
        "model.revive_below=0.3",
    ],
    "vqvae2": [
        "model.latent_dim=4",
        "model.codebook_size=16",
        "model.codebook_decay=0.7",
        "model.revive_below=0.3",
    ],
    "fsq": ["model.levels=[4,3,3]"],
    "prior": ["model.dim=16", "model.depth=1", "model.num_heads=2"],
    "kl": [
        "model.stages=2",
        "model.adv=0.5",
        "model.adv_start=0.2",
        "model.critic_width=8",
        "model.eq=0.5",
        "train.ema=0",
        "data.scale=[1,1]",
        "optim.lr=1e-3",
    ],
    "sae": ["model.k=4", "model.group=2", "model.aux_k=4", "model.dead_after=64"],
}


def words(name: str, shards: str, output: Path, *settings: str) -> list[str]:
    """Arguments of `mae pretrain` for the recipe, made small."""
    backbone = [] if name in SOURCES else CONV
    if "model.backbone=vit" in settings:
        backbone = []
    shared = [f"output={output}", f"data.train={shards}", *SHARED, *backbone, *SMALL[name]]
    return [str(RECIPES / f"{name}.yaml"), *shared, *settings]


def train(
    name: str, shards: str, output: Path, *settings: str, is_double: bool = False, code: int = 0
) -> str:
    """Run the recipe here with one thread, as in a launched process; returns its output."""
    printed, threads = io.StringIO(), torch.get_num_threads()
    double = in_double() if is_double else contextlib.nullcontext()
    with double, contextlib.redirect_stdout(printed):
        torch.set_num_threads(1)
        try:
            assert main(words(name, shards, output, *settings)) == code
        finally:
            torch.set_num_threads(threads)
    return printed.getvalue()


@contextlib.contextmanager
def in_double() -> Iterator[None]:
    """Build all autoencoders in float64."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in {type(implementation(name)) for name in NAMES}:
            if "build" in vars(kind):
                patch.setattr(kind, "build", doubled(kind.build))
        yield


def doubled(build: Any) -> Any:
    """`build`, whose module is converted to float64."""
    return lambda self, config: build(self, config).double()


@contextlib.contextmanager
def stopped_after(step: int) -> Iterator[None]:
    """SIGTERM to this process after optimizer step `step`."""
    from mae.training import loop

    take = loop.train_step

    def take_and_stop(learner: Any, batches: Any, now: Any, meter: Any) -> Tensor:
        loss = take(learner, batches, now, meter)
        if now.number == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", take_and_stop)
        yield


TIMES = {"images_per_second", "data_wait", "seconds", "time", "memory_gb", "tflops", "mfu", "eta"}


def assert_close(one: Path, other: Path, tolerance: float = 1e-9) -> None:
    """Compare weights, buffers and every number of metrics.jsonl but the speeds."""
    ours, theirs = final_weights(one), final_weights(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=tolerance, msg=name)
    rows, expected_rows = metrics_of(one), metrics_of(other)
    assert len(rows) == len(expected_rows) and rows
    for row, expected in zip(rows, expected_rows, strict=True):
        for key in row.keys() - TIMES:
            assert row[key] == pytest.approx(expected[key], abs=tolerance), (row["step"], key)
