"""`mae bench decode`: rates of both decoders, and the difference of their pixels."""

import json
import sys
from itertools import islice

import pytest
import torch

from mae.base.errors import UserError
from mae.cli import main
from mae.commands.bench import decode
from mae.commands.bench.decode import (
    bench_decoding,
    decode_by_codec,
    decode_on_cpu,
    decoding_table,
    pixel_difference,
)
from mae.commands.bench.pipeline import our_bytes
from mae.commands.bench.rounds import Effort
from mae.data.indexing import build_manifest
from mae.decoding.on_device import JpegDecoder

QUICK = Effort(rounds=2)


@pytest.fixture
def shards(tmp_path, make_shards):
    return make_shards(tmp_path / "shards", 12, size=(40, 56))


def test_the_command_measures_both_decoders(shards, tmp_path, capsys):
    out = tmp_path / "decode.json"
    assert main(["bench", "decode", shards, "--quick", "--device", "cpu", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["images"] == 12
    one, *_, codec = result["rows"].values()
    assert one["ratio"]["median"] == 1 and codec["images_per_s"]["median"] > 0
    assert result["pixels"] == {"mean": 0, "max": 0}  # both are libjpeg-turbo here
    printed = capsys.readouterr().out
    assert "| CPU, one core " in printed and "| nvImageCodec, cpu " in printed


def test_different_pixels_are_reported(shards, monkeypatch):
    """A stand-in for the codec decodes every value too large by one."""

    def brighter(images, batch_size, decoder):
        return [(image.int() + 1).clamp(max=255).to(torch.uint8) for image in decode_on_cpu(images)]

    monkeypatch.setattr(decode, "decode_by_codec", brighter)
    result = bench_decoding([shards], images=4, effort=QUICK)
    assert result["pixels"]["max"] == 1 and 0.9 < result["pixels"]["mean"] <= 1
    assert ", largest 1" in decoding_table(result)
    assert f"mean {result['pixels']['mean']:.3f}" in decoding_table(result)


def test_without_nvimagecodec_the_cpu_is_measured(shards, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    result = bench_decoding([shards], images=4, effort=QUICK)
    assert len(result["rows"]) == 2
    assert "Not measured: decoding on the device needs nvImage" in decoding_table(result)


def test_batches_come_back_in_order(shards):
    images = list(islice(our_bytes(build_manifest([shards], "bench", None)), 5))
    found = decode_by_codec(images, 2, JpegDecoder(torch.device("cpu"), 3))
    assert pixel_difference(decode_on_cpu(images), found)["max"] == 0


def test_a_jpeg_that_nvimagecodec_cannot_decode_is_an_error(shards):
    (image,) = islice(our_bytes(build_manifest([shards], "bench", None)), 1)
    with pytest.raises(UserError, match="nvImageCodec cannot decode"):
        decode_by_codec([image, image[:50]], 2, JpegDecoder(torch.device("cpu"), 3))


def test_other_images_than_jpegs_are_refused(tmp_path, make_shards):
    shards = make_shards(tmp_path / "png", 4, extension="png")
    with pytest.raises(UserError, match="other images than JPEGs"):
        bench_decoding([shards], effort=QUICK)
