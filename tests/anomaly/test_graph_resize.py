"""Images resized in a graph, against torch's own resizing."""

import pytest
import torch

from mae.anomaly.graph_resize import resize_whole
from mae.anomaly.tiles import whole_view

SIZES = [(31, 57), (128, 128), (128, 300), (517, 389), (5, 79), (400, 7), (7, 400), (90, 1)]


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_pixels_are_those_of_whole_view_exactly(channels):
    """Also of images more than 16 times as long as wide, which are cut to their middle."""
    generator = torch.Generator().manual_seed(channels)
    for height, width in SIZES:
        image = torch.randint(
            0, 256, (channels, height, width), dtype=torch.uint8, generator=generator
        )
        image[:, : height // 2] = image[:, : height // 2] // 255 * 255  # overshoots are clipped
        for size in ((128, 128), (64, 96)):
            found = resize_whole(image[None], size)
            assert found.dtype == torch.uint8
            assert torch.equal(found[0], whole_view(image, size)), (height, width, size)


def test_sixteen_bits_differ_by_one_level_at_most():
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 2**16, (2, 150, 90), generator=generator)
    image = values.to(torch.uint16)
    found, expected = resize_whole(image[None], (64, 48))[0], whole_view(image, (64, 48))
    difference = (found.int() - expected.int()).abs()
    assert found.dtype == torch.uint16
    assert difference.max() <= 1 and (difference > 0).double().mean() < 0.01
