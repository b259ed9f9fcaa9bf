"""Blind spots: stratified, replaced by others, and never seen by their own prediction."""

import pytest
import torch

from mae.objectives.noise2void.masking import (
    KERNEL,
    BlindSpots,
    grid_masks,
    interpolated,
)

SEEDS = torch.arange(1, 65) * 104729
SIZES = [(16, 16), (18, 23), (12, 64)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("grid", [2, 4, 5])
def test_each_square_hides_one_pixel_at_a_uniform_place(grid, size):
    hidden = BlindSpots(grid, "neighbour", 2).draw(SEEDS, size).hidden
    y, x = hidden // size[1], hidden % size[1]
    squares = y // grid * -(-size[1] // grid) + x // grid
    count = -(-size[0] // grid) * -(-size[1] // grid)
    assert (squares == torch.arange(count)).all()
    places = torch.bincount((y % grid * grid + x % grid)[:, 0], minlength=grid * grid)
    assert (places > 0).sum() >= min(grid * grid, 20) * 0.8


@pytest.mark.parametrize("size", SIZES)
def test_it_is_a_function_of_each_samples_seed(size):
    spots = BlindSpots(4, "neighbour", 2)
    many, one = spots.draw(SEEDS, size), spots.draw(SEEDS[5:6], size)
    assert torch.equal(many.hidden[5:6], one.hidden) and torch.equal(many.sources[5:6], one.sources)
    assert not torch.equal(many.hidden[0], many.hidden[1])


@pytest.mark.parametrize("radius", [1, 2, 5])
def test_a_neighbour_is_near_inside_the_image_and_never_the_pixel_itself(radius):
    height, width = 12, 15
    seeds = torch.arange(2000) * 7919
    hidden, sources = BlindSpots(4, "neighbour", radius).draw(seeds, (height, width))
    dy, dx = sources // width - hidden // width, sources % width - hidden % width
    assert not (sources == hidden).any()
    assert sources.min() >= 0 and sources.max() < height * width
    inner = (hidden // width == 6) & (hidden % width == 7)
    if radius < 6:
        assert dy[inner].abs().max() == radius == dx[inner].abs().max()
        offsets = torch.stack([dy[inner], dx[inner]]).unique(dim=1)
        side = 2 * radius + 1
        assert offsets.shape[1] >= 0.6 * (side * side - 1) or len(dy[inner]) < 4 * side * side
    assert dy.abs().max() <= 2 * radius and dx.abs().max() <= 2 * radius  # shifted at the border


@pytest.mark.parametrize("replacement", ["interpolation", "neighbour"])
def test_only_hidden_pixels_are_replaced_in_all_channels(replacement):
    spots = BlindSpots(4, replacement, 2)
    images = torch.rand(3, 2, 16, 18)
    drawn = spots.draw(SEEDS[:3], (16, 18))
    made = spots.hide(images, drawn)
    changed = (made != images).flatten(2)
    expected = torch.zeros(3, 16 * 18, dtype=torch.bool).scatter(1, drawn.hidden, True)
    assert torch.equal(changed[:, 0], expected) and torch.equal(changed[:, 1], expected)
    if replacement == "neighbour":
        own, other = made.flatten(2), images.flatten(2)
        for row in range(3):
            assert torch.equal(own[row][:, drawn.hidden[row]], other[row][:, drawn.sources[row]])


def test_interpolated_pixels_are_the_mean_of_visible_neighbours_by_a_loop():
    spots = BlindSpots(2, "interpolation", 2)
    images = torch.rand(1, 1, 9, 10, dtype=torch.float64)
    drawn = spots.draw(SEEDS[:1], (9, 10))
    made, hidden = spots.hide(images, drawn)[0, 0], set(drawn.hidden[0].tolist())
    for place in hidden:
        y, x = divmod(place, 10)
        total = weight = 0.0
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                v, u = y + dy, x + dx
                if 0 <= v < 9 and 0 <= u < 10 and v * 10 + u not in hidden:
                    total += KERNEL[dy + 1][dx + 1] * images[0, 0, v, u].item()
                    weight += KERNEL[dy + 1][dx + 1]
        assert made[y, x].item() == pytest.approx(total / weight, abs=1e-12)


def test_an_interpolated_image_does_not_depend_on_hidden_pixels():
    spots = BlindSpots(2, "interpolation", 2)
    images, drawn = torch.rand(1, 3, 12, 12), spots.draw(SEEDS[:1], (12, 12))
    where = drawn.hidden[:, None].expand(-1, 3, -1)
    other = images.flatten(2).scatter(2, where, torch.rand(1, 3, 36)).view_as(images)
    torch.testing.assert_close(spots.hide(images, drawn), spots.hide(other, drawn))


def test_a_hidden_corner_without_visible_neighbours_is_0():
    """Squares of 3 leave 1 pixel of 64 in the corner, whose 3 neighbours can all be hidden."""
    spots = BlindSpots(3, "interpolation", 2)
    drawn = spots.draw(torch.arange(1, 2001) * 7919, (64, 64))
    alone = drawn.hidden[..., None] == torch.tensor([62 * 64 + 62, 62 * 64 + 63, 63 * 64 + 62])
    rows = alone.any(dim=1).all(dim=1).nonzero()[:, 0]
    assert len(rows) > 5
    made = spots.hide(torch.ones(len(rows), 1, 64, 64), drawn._replace(hidden=drawn.hidden[rows]))
    assert made.isfinite().all() and (made[..., -1, -1] == 0).all()


def test_the_passes_hide_every_pixel_once():
    masks = torch.cat(list(grid_masks(10, 13, torch.device("cpu"))))
    assert len(masks) == 16 and (masks.sum(dim=0) == 1).all()


def test_a_constant_image_stays_constant():
    grey = torch.full((1, 1, 6, 7), 0.3)
    torch.testing.assert_close(interpolated(grey, torch.ones(1, 1, 6, 7)), grey)
