"""Images whole or in tiles: nothing is lost at any size."""

import pytest
import torch

from mae.compression.layout import MOST_TILES, WHOLE, batches, joined, parts_of, split
from mae.objectives.capabilities import ImageCoding

CODING = ImageCoding(4, lambda one: [], lambda maps: torch.zeros(1), [(8, 4), (4, 2)], True)


@pytest.mark.parametrize("size", [(1, 1), (8, 4), (9, 30), (40, 17)])
@pytest.mark.parametrize("tile", [WHOLE, (8, 16)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_parts_are_put_together_again(size, tile, dtype):
    image = torch.randint(0, 255, (3, *size)).to(dtype)
    count, part = parts_of(size, CODING, tile)
    parts = split(image, part, tile)
    assert parts.shape == (count, 3, *part) and parts.dtype == dtype
    assert part[0] % 8 == 0 and part[1] % 4 == 0
    assert torch.equal(joined(parts, size), image)
    last = parts[-1, :, -1, -1]  # continued by the last pixels
    assert torch.equal(last, image[:, -1, -1])


def test_batches_are_neighbours_of_one_size():
    sizes = [(1, (8, 4))] * 3 + [(2 * MOST_TILES + 1, (16, 16))] + [(1, (8, 4))]
    found = list(batches(sizes, {}))
    assert [len(one) for one in found] == [3, MOST_TILES, MOST_TILES, 1, 1]
    assert [number for one in found for number in one] == list(range(2 * MOST_TILES + 5))
    few = list(batches(sizes, {(8, 4): 4096, (16, 16): 10**6}))
    assert [len(one) for one in few][:4] == [2, 1, 1, 1]
