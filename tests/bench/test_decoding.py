import json

import pytest
import torch

from mae.bench import decoding
from mae.bench.decoding import bench_decoding, by_cpu, by_gpu, differences
from mae.bench.rounds import Effort
from mae.bench.tables import decoding_table
from mae.cli import main
from mae.errors import UserError

QUICK = Effort(rounds=2)


@pytest.fixture
def shards(tmp_path, make_shards):
    return make_shards(tmp_path / "shards", 12, size=(40, 56))


def test_the_command_measures_the_cpu(shards, tmp_path, capsys):
    out = tmp_path / "decode.json"
    assert main(["bench", "decode", shards, "--quick", "--device", "cpu", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["images"] == 12 and "pixels" not in result
    one, _ = result["rows"].values()
    assert one["ratio"]["median"] == 1
    assert "| CPU, one core " in capsys.readouterr().out


def test_a_gpus_pixels_are_compared(shards, monkeypatch):
    """A GPU that decodes as the CPU does, but a level too bright."""

    def brighter(images, batch_size, device):
        return [(image.int() + 1).clamp(max=255).to(torch.uint8) for image in by_cpu(images)]

    monkeypatch.setattr(decoding, "by_gpu", brighter)
    monkeypatch.setattr(decoding, "timed", lambda work, count, device: work() and 1.0)
    monkeypatch.setattr(decoding, "about", lambda device, effort: about("cpu", effort))
    from mae.bench.step import about

    result = bench_decoding([shards], images=4, device="cuda", effort=QUICK)
    assert result["pixels"]["max"] == 1 and 0.9 < result["pixels"]["mean"] <= 1
    text = decoding_table(result)
    assert "| GPU, nvJPEG through torchvision" in text and "1 at most" in text


def test_batches_come_back_in_order(shards):
    """torchvision's own decoder, on the CPU here."""
    from itertools import islice

    from mae.bench.pipelines import our_bytes
    from mae.data.manifest import build_manifest

    images = list(islice(our_bytes(build_manifest([shards], "bench", None)), 5))
    found = by_gpu(images, 2, torch.device("cpu"))
    assert differences(by_cpu(images), found)["max"] <= 2


def test_other_images_are_refused(tmp_path, make_shards):
    shards = make_shards(tmp_path / "png", 4, extension="png")
    with pytest.raises(UserError, match="other images than JPEGs"):
        bench_decoding([shards], effort=QUICK)
