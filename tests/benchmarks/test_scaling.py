"""Communication computed by hand, and the page of scaling efficiencies."""

import json
from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.communication import (
    BUCKET,
    Network,
    Sizes,
    all_reduce_seconds,
    ddp,
    efficiency,
    fsdp2,
    least_batch,
    pass_seconds,
)

PAGE = Path(__file__).parents[2] / "docs" / "SCALING.md"
WIRE = Network("wire", bandwidth=1e9, latency=0.0)
SLOW = Network("slow", bandwidth=1e9, latency=1e-3)
ONE_BUCKET = Sizes(encoder=BUCKET // 8, decoder=BUCKET // 8, depth=4)


def test_a_ring_of_two_and_of_four():
    """1 GB at 1 GB/s: each of two sends half of it in a pass, each of four three quarters."""
    assert pass_seconds(1e9, 2, WIRE) == 0.5
    assert all_reduce_seconds(1e9, 2, WIRE) == 1.0
    assert all_reduce_seconds(1e9, 4, WIRE) == 1.5
    # log2: two messages behind each other for four, three for five to eight.
    assert pass_seconds(0, 4, SLOW) == 2e-3 and pass_seconds(0, 5, SLOW) == 3e-3


def test_ddp_waits_at_least_for_the_last_bucket():
    sizes = Sizes(encoder=8 * BUCKET // 4, decoder=2 * BUCKET // 4, depth=2)
    one = BUCKET / 1e9  # of two GPUs: 2 · 1/2
    found = ddp(sizes, 2, WIRE, compute=100.0)
    assert found.sent == 10 * BUCKET
    assert found.busy == pytest.approx(10 * one)
    assert found.exposed == pytest.approx(one)
    # A backward pass as long as four buckets hides four of ten.
    assert ddp(sizes, 2, WIRE, compute=1.5 * 4 * one).exposed == pytest.approx(6 * one)


def test_fsdp2_waits_for_the_first_all_gather_and_the_last_reduce_scatter():
    sizes = Sizes(encoder=4_000_000, decoder=2_000_000, depth=4)
    # 24 MB in all, six units of 4 MB; of two GPUs 2 ms each, a block of the encoder 2 ms too.
    found = fsdp2(sizes, 2, WIRE, compute=100.0)
    assert found.sent == 3 * 12e6
    assert found.busy == pytest.approx(3 * 12e-3)
    assert found.exposed == pytest.approx(2e-3 + 2e-3)
    # No overlap: two all-gathers and a reduce-scatter.
    assert fsdp2(sizes, 2, WIRE, compute=0.0).exposed == pytest.approx(36e-3)


def test_efficiency_is_the_share_of_computation():
    communication = ddp(ONE_BUCKET, 2, WIRE, compute=1.0)
    assert efficiency(communication, 1.0) == pytest.approx(1 / (1 + BUCKET / 1e9))


@pytest.mark.parametrize("kind", [ddp, fsdp2])
@pytest.mark.parametrize("network", scaling.NETWORKS)
def test_the_least_batch_is_enough_and_one_less_is_not(kind, network):
    sizes = Sizes(encoder=86_000_000, decoder=26_000_000, depth=12)

    def reached(batch):
        compute = batch / 10_000
        return efficiency(kind(sizes, 64, network, compute), compute)

    least = least_batch(kind, sizes, 64, network, 10_000, 0.95)
    assert reached(least) >= 0.95
    assert least == 1 or reached(least - 1) < 0.95


def test_sizes_are_those_of_the_paper():
    """ViT-B's encoder: 85.8 M weights; 86.6 M with a classifier of 1,000 classes."""
    sizes = scaling.sizes_of("vit_base_patch16_224")
    embed = 768 * (16 * 16 * 3 + 1) + 768  # projection, class token
    block = 12 * 768**2 + 13 * 768
    assert sizes.encoder == embed + 12 * block + 2 * 768
    assert sizes.depth == 12 and sizes.all == sizes.encoder + sizes.decoder


def test_the_page_in_docs_is_what_the_command_prints(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["scaling"])
    scaling.main()
    assert capsys.readouterr().out == PAGE.read_text()


def test_measured_step_times_replace_derived_ones(tmp_path, capsys, monkeypatch):
    rows = [
        {"encoder": "vit_base_patch16_224", "images_per_s": {"median": 1_000.0}},
        {"encoder": "vit_base_patch16_224", "images_per_s": {"median": 9_999.0}},
        {"encoder": "vit_large_patch16_224", "error": "out of memory"},
    ]
    path = tmp_path / "step.json"
    path.write_text(json.dumps({"rows": rows, "machine": {"gpu": "GPU 9000"}}))
    monkeypatch.setattr("sys.argv", ["scaling", str(path)])
    scaling.main()
    page = capsys.readouterr().out
    assert "measured: `mae bench step` on GPU 9000" in page
    assert "9,999" in page and "10,800" not in page and "ViT-L" not in page
