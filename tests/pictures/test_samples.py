import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mae.base.errors import UserError
from mae.decoding.decode import decode
from mae.pictures.samples import (
    BATCH,
    COLUMNS,
    SampleRequest,
    check_channels,
    draw_samples,
    png_bytes,
    sample_sheet,
    write_samples,
)


class Noise:
    """Model whose samples are their seeds' bits."""

    def __init__(self, channels: int = 3) -> None:
        self.channels, self.sizes = channels, []

    def sample(self, seeds: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(seeds))
        values = (seeds[:, None] >> torch.arange(self.channels * 20)) & 1
        return (
            values.view(-1, self.channels, 4, 5).double() * 1.5 - 0.1
        )  # out of range on both sides


def drawn(model: Noise, count: int, seed: int = 0) -> torch.Tensor:
    return torch.cat(list(draw_samples(model, count, seed, "cpu")))  # pyrefly: ignore


def test_a_sample_depends_on_seed_and_number_alone():
    model = Noise()
    many = drawn(model, 3 * BATCH + 1)
    assert len(many) == 3 * BATCH + 1 and set(model.sizes) == {BATCH}
    assert torch.equal(many[:5], drawn(Noise(), 5))
    assert many.dtype == torch.float32 and many.min() == 0 and many.max() == 1
    assert len({one.numpy().tobytes() for one in many}) == len(many)
    assert not torch.equal(many[:5], drawn(Noise(), 5, seed=1))


def test_samples_that_are_not_finite_are_refused():
    model = Noise()
    model.sample = lambda seeds: torch.full((len(seeds), 1, 2, 2), torch.nan)
    with pytest.raises(UserError, match="samples from seed 0 are not finite"):
        drawn(model, 2)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_files_hold_the_samples_in_full_depth(channels, bits, tmp_path):
    samples = drawn(Noise(channels), 3) * 0.7
    names = write_samples(samples, bits, tmp_path, 10)
    assert names == ["sample-000010.png", "sample-000011.png", "sample-000012.png"]
    white = 2**bits - 1
    expected = (samples[1].double() * white).round()
    with Image.open(tmp_path / names[1]) as picture:
        assert picture.size == (5, 4)
        picture.load()
    read = decode((tmp_path / names[1]).read_bytes(), "png", channels, bits)
    if channels in (1, 3):
        assert torch.equal(read.double(), expected)


def test_png_bytes_are_a_whole_file():
    data = png_bytes(np.zeros((2, 3, 1), np.uint8))
    assert data.startswith(b"\x89PNG") and data.endswith(zlib.crc32(b"IEND").to_bytes(4, "big"))


def test_files_of_more_channels_are_refused():
    check_channels(4)
    with pytest.raises(UserError, match="--files: PNG files hold 1 to 4 channels, and the samples"):
        check_channels(5)


def test_the_sheet_numbers_the_samples_and_says_what_it_leaves_out():
    samples = drawn(Noise(5), COLUMNS + 2)
    sheet = sample_sheet(samples, 16, SampleRequest(100, 7, "title"))
    assert [len(row) for row in sheet.rows] == [COLUMNS, 2]
    assert [cell.caption for cell in sheet.rows[1]] == ["8", "9"]
    notes = " ".join(sheet.notes)
    assert "seed 7" in notes and "The first 10 of 100." in notes
    assert "1st and 99th percentile" in notes and "first three channels are shown, of 5" in notes
    assert len(sample_sheet(samples[:, :3], 8, SampleRequest(10, 0, "t")).notes) == 1
