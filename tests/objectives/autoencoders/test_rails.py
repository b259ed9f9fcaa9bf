"""Every recipe of the autoencoders: stopped and resumed, in micro-batches, in bf16."""

import pytest
import torch
from accelerate.state import AcceleratorState

from tests.objectives.autoencoders.recipes import NAMES, assert_close, stopped_after, train
from tests.runs import exit_status, final_weights, metrics_of, same_weights


@pytest.mark.parametrize("name", NAMES)
def test_stopped_it_resumes_bit_for_bit(name, finished, needs, shards, tmp_path):
    more = needs(name)
    with stopped_after(3):
        train(name, shards, tmp_path / "run", *more, code=75)
    assert exit_status(tmp_path / "run")["step"] == 3
    printed = train(name, shards, tmp_path / "run", *more)
    assert "resumed at step 3" in printed
    assert same_weights(final_weights(tmp_path / "run"), final_weights(finished(name)))


VARIANTS = (
    *((name,) for name in NAMES),
    ("ae", "model.backbone=vit"),
    ("ae", "model.backbone=linear"),
    ("sparse", "model.sparsity=l1", "model.dead_after=8", "model.backbone=linear"),
    ("sparse", "model.latent=map"),
    ("vae", "model.latent=map", "model.free_bits=0.1", "model.beta_warmup=0"),
    ("vqvae", "model.kmeans_start=false"),
    ("vqvae", "model.backbone=ldm"),
    ("prior", "model.kind=masked"),
    ("ladder", "model.groups=[2,1,1]", "model.balance=false", "model.free_bits=0.1"),
)


@pytest.mark.parametrize("variant", VARIANTS, ids=" ".join)
def test_accumulation_changes_nothing(variant, needs, shards, tmp_path):
    name, *settings = variant
    for size in (8, 2):
        more = [*settings, *needs(name), f"train.max_device_batch={size}"]
        train(name, shards, tmp_path / str(size), *more, is_double=True)
    rows = metrics_of(tmp_path / "8")
    assert len(rows) == 8
    if name in ("sparse", "sae") and "model.latent=map" not in settings:
        assert rows[-1]["dead_latents"] > 0  # the auxiliary loss is at work
    assert_close(tmp_path / "2", tmp_path / "8")


def test_codes_are_revived_in_these_runs(finished, shards, tmp_path):
    train("vqvae", shards, tmp_path / "run", "model.revive_below=0")
    kept, revived = final_weights(tmp_path / "run"), final_weights(finished("vqvae"))
    assert not torch.equal(kept["bottleneck.codebook"], revived["bottleneck.codebook"])


PRECISE = (torch.float32, torch.float64)

BUFFERS = {
    "vqvae": ("bottleneck.codebook", "bottleneck.counts", "bottleneck.sums"),
    "sparse": ("bottleneck.unused",),
    "sae": ("dictionary.unused", "dictionary.threshold", "dictionary.centre"),
}


@pytest.fixture
def fresh_accelerator():
    """accelerate keeps the precision of the first run in a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("name", NAMES)
def test_bf16_is_near_fp32(name, finished, needs, shards, tmp_path, request):
    expected, more = finished(name), needs(name)
    request.getfixturevalue("fresh_accelerator")
    train(name, shards, tmp_path / "run", *more, "train.precision=bf16")
    rows, in_fp32 = metrics_of(tmp_path / "run"), metrics_of(expected)
    assert [row["loss"] for row in rows] != [row["loss"] for row in in_fp32]
    for row, exact in zip(rows, in_fp32, strict=True):
        assert row["loss"] == pytest.approx(exact["loss"], rel=0.05)
    weights, exact = final_weights(tmp_path / "run"), final_weights(expected)
    assert {key: one.dtype for key, one in weights.items()} == {
        key: one.dtype for key, one in exact.items()
    }
    assert all(one.isfinite().all() for one in weights.values())
    assert all(weights[key].dtype in PRECISE for key in BUFFERS.get(name, ()))
