"""Communication computed by hand, and the page of scaling efficiencies."""

import json
from pathlib import Path

import pytest

from benchmarks import scaling, scaling_communication
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
@pytest.mark.parametrize("network", scaling_communication.NETWORKS)
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
    sizes = scaling_communication.sizes_of("vit_base_patch16_224")
    embed = 768 * (16 * 16 * 3 + 1) + 768  # projection, class token
    block = 12 * 768**2 + 13 * 768
    assert sizes.encoder == embed + 12 * block + 2 * 768
    assert sizes.depth == 12 and sizes.all == sizes.encoder + sizes.decoder


def test_the_page_in_docs_is_what_the_command_prints(capsys):
    assert scaling.main([]) == 0
    assert capsys.readouterr().out == PAGE.read_text()


def test_the_page_says_where_its_numbers_come_from():
    """Each section on data says measured or derived; a measured one names command and date."""
    text = PAGE.read_text()
    data = text[text.index("## Data") : text.index("## Communication")]
    sections = data.split("\n### ")[1:]
    assert len(sections) == 8
    assert all("Measured" in one or "Derived" in one for one in sections)
    for one in sections:
        assert ("Measured" not in one) or ("python -m benchmarks." in one and "2026-" in one)


def test_measured_step_times_replace_derived_ones(tmp_path, capsys):
    rows = [
        {"encoder": "vit_base_patch16_224", "images_per_s": {"median": 1_000.0}},
        {"encoder": "vit_base_patch16_224", "images_per_s": {"median": 9_999.0}},
        {"encoder": "vit_large_patch16_224", "error": "out of memory"},
    ]
    path = tmp_path / "step.json"
    path.write_text(json.dumps({"rows": rows, "machine": {"gpu": "GPU 9000"}}))
    assert scaling.main([str(path)]) == 0
    page = capsys.readouterr().out
    assert "measured: `mae bench step` on GPU 9000" in page
    assert "9,999" in page and "10,800" not in page and "ViT-L" not in page


def test_the_needs_of_some_images_on_some_gpus(capsys):
    options = ["--images", "3e8", "--gpus", "64", "--image-kb", "40", "--shard-images", "1000"]
    assert scaling.main(options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == ("300,000,000 images of 40 kB in 300,000 shards: 12 TB; 64 GPUs on 8 nodes")
    assert lines[1].startswith("manifest: 9.33 GB, of which a start reads 25.2 MB; index: ")
    # 8 lanes of a node, two windows of 4 shards of 40 MB.
    assert lines[2].endswith("data.order=lanes data.window=4 data.lanes=64 data.cache_gb=3")
    assert [line.partition(":")[0] for line in lines[3:]] == ["ViT-B/16", "ViT-L/16", "ViT-H/14"]
    assert "13.6 GB/s in all, 1.7 GB/s to a node (42,400 images or 42.4 shards/s)" in lines[4]


@pytest.mark.parametrize("content", [None, "{", "{}", '{"rows": [], "machine": {"gpu": "G"}}'])
def test_a_file_that_is_no_result_of_steps_is_named(content, tmp_path, capsys):
    path = tmp_path / "step.json"
    if content:
        path.write_text(content)
    assert scaling.main([str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path}: expected a result of mae bench step" in line
