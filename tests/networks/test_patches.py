import itertools

import pytest
import torch

from mae.networks.patches import gather_tokens, patch_statistics, patchify, unpatchify

SHAPES = [
    ((2, 3, 32, 32), (16, 16)),
    ((1, 1, 8, 24), (4, 4)),
    ((2, 5, 12, 20), (3, 4)),
    ((1, 13, 6, 4), (6, 4)),
    ((3, 2, 5, 7), (1, 1)),
]


def numbered(shape):
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


def cut(images, patch_size):
    """Patches in row-major order, pixels within them too, channels last, by explicit loops."""
    b, c, h, w = images.shape
    p, q = patch_size
    rows = []
    for image in images:
        for top, left in itertools.product(range(0, h, p), range(0, w, q)):
            pixels = itertools.product(range(top, top + p), range(left, left + q), range(c))
            rows.append([image[k, y, x].item() for y, x, k in pixels])
    return torch.tensor(rows).reshape(b, -1, p * q * c)


@pytest.mark.parametrize(("shape", "patch_size"), SHAPES)
def test_layout(shape, patch_size):
    images = numbered(shape)
    assert torch.equal(patchify(images, patch_size), cut(images, patch_size))


@pytest.mark.parametrize(("shape", "patch_size"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_round_trip(shape, patch_size, dtype):
    images = numbered(shape).to(dtype)
    back = unpatchify(patchify(images, patch_size), shape[2:], patch_size)
    assert back.dtype == dtype and torch.equal(back, images)


@pytest.mark.parametrize("patch_size", [(5, 4), (4, 5), (16, 4)])
def test_patchify_refuses_sizes_that_do_not_divide(patch_size):
    with pytest.raises(ValueError, match="an image of 8 x 12 does not divide"):
        patchify(torch.zeros(1, 3, 8, 12), patch_size)


@pytest.mark.parametrize("shape", [(1, 5, 48), (1, 6, 47)])
def test_unpatchify_refuses_shapes_that_do_not_match(shape):
    with pytest.raises(ValueError, match="are not an image of 8 x 12 at 4 x 4"):
        unpatchify(torch.zeros(shape), (8, 12), (4, 4))


def test_gather_tokens_keeps_the_order_of_ids():
    tokens = numbered((2, 4, 3))
    ids = torch.tensor([[2, 0], [3, 3]])
    expected = torch.stack([tokens[0, [2, 0]], tokens[1, [3, 3]]])
    assert torch.equal(gather_tokens(tokens, ids), expected)


def test_patch_statistics_are_mean_and_unbiased_deviation():
    patches = torch.tensor([[[1.0, 2.0, 3.0, 6.0], [0.5, 0.5, 0.5, 0.5]]])
    mean, std = patch_statistics(patches)
    assert mean.flatten().tolist() == [3.0, 0.5]
    assert std.flatten().tolist() == pytest.approx([(14 / 3 + 1e-6) ** 0.5, 1e-3])
