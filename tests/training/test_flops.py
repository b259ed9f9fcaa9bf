"""Operations, counted on shapes."""

import time

import pytest
import torch
from torch import nn

from mae.base.peak_flops import TERA, peak_flops_of_name
from mae.config.loading import load_config
from mae.objectives.base import Features, Objective, Output
from mae.objectives.mae.model import build_mae
from mae.training.flops import flops_per_image, mfu, peak_flops

PUBLISHED = {
    "vit_small_patch16_224": (38.9, 37.7785344),
    "vit_base_patch16_224": (58.5, 57.143857152),
    "vit_large_patch16_224": (124.2, 122.79908352),
    "vit_huge_patch14_224": (291.0, 289.165682688),
}
"""GFLOP of the textbook's formulation, and of ours"""


class Linear(Objective):
    """A product whose operations are counted by hand."""

    img_size = (4, 6)

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2 * 4 * 6, 10)
        self.register_buffer("scale", torch.ones(1))

    def draw(self, images, seeds, labels=None):
        return None

    def forward(self, images, noise, progress):
        loss = self.head(images.flatten(1).float() * self.scale).mean()
        return Output({"mean": loss}, {}, {})

    def encode(self, images):
        return Features({})


def test_a_product_is_counted_forward_and_backward():
    forward = 2 * 48 * 10
    assert flops_per_image(Linear(), 2) == 2 * forward  # no gradient of the images


@pytest.mark.parametrize("encoder", PUBLISHED)
def test_the_papers_sizes(encoder):
    """Ours does a little less than the textbook for the same result: it embeds the visible patches
    only, and the decoder's last block and head work for the hidden ones only."""
    with torch.device("meta"):
        objective = build_mae(load_config(None, [f"model.encoder={encoder}"]))
    began = time.process_time()
    giga = flops_per_image(objective, 3) / 1e9
    assert time.process_time() - began < 5
    textbook, ours = PUBLISHED[encoder]
    assert giga == pytest.approx(ours, rel=1e-6)
    assert 0.97 * textbook < giga < textbook


BLOCKS = {
    "vit_small_patch16_dinov3_qkvb": (5, 2 * 1536),  # a class token and four registers
    "vit_small_plus_patch16_dinov3_qkvb": (5, 3 * 1536),  # a gate, too
    "vit_small_patch16_rope_mixed_224": (1, 2 * 1536),
}
"""encoder of width 384 → its prefix tokens, outputs of the MLP's layers together"""


@pytest.mark.parametrize("encoder", BLOCKS)
def test_a_block_with_rotary_positions_by_hand(encoder):
    """Rotations have no matrix products: the count is that of a plain block of as many tokens."""

    def counted(depth: int) -> int:
        settings = [f"model.encoder={encoder}", f"model.encoder_kwargs={{depth: {depth}}}"]
        settings += ["data.img_size=224", "model.decoder_depth=1"]
        with torch.device("meta"):
            return flops_per_image(build_mae(load_config(None, settings)), 3)

    prefix, mlp = BLOCKS[encoder]
    tokens, width = prefix + 49, 384
    products = 2 * tokens * width * (4 * width + mlp)
    attention = 2 * 2 * tokens**2 * width
    assert counted(2) - counted(1) == 3 * (products + attention)


def test_counting_leaves_the_objective_as_it_is():
    model = {
        "encoder": "vit_tiny_patch16_224",
        "encoder_kwargs": {"embed_dim": 32, "depth": 1, "num_heads": 2},
        "patch_size": 4,
        "decoder_embed_dim": 16,
        "decoder_depth": 1,
        "decoder_num_heads": 2,
    }
    data = {"img_size": (16, 32), "in_chans": 5, "mean": (0.5,) * 5, "std": (0.5,) * 5}
    objective = build_mae(load_config(None, (), {"model": model, "data": data}))
    before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    random_state = torch.get_rng_state()
    assert flops_per_image(objective, 5) > 0
    after = objective.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(parameter.grad is None for parameter in objective.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_known_devices(name, tera):
    assert peak_flops_of_name(name, "bf16") == pytest.approx(tera * TERA)


def test_unknown_peaks_are_none():
    assert peak_flops_of_name("Tesla V100-SXM2-16GB", "fp32") == pytest.approx(15.7 * TERA)
    assert peak_flops_of_name("Tesla V100-SXM2-16GB", "bf16") is None
    assert peak_flops_of_name("NVIDIA H2000", "bf16") is None
    assert peak_flops_of_name("NVIDIA A100-SXM4-80GB MIG 3g.40gb", "bf16") is None
    assert peak_flops_of_name("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16") is None
    assert peak_flops(torch.device("cpu"), "fp32") is None


def test_mfu_is_the_share_of_all_devices():
    assert mfu(1000, 50 * 10**9, 100 * TERA, devices=2) == pytest.approx(0.25)
    assert mfu(1000, 50 * 10**9, None, devices=2) is None
