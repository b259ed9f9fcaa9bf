"""Copies among images."""

import numpy as np
import torch
import torch.nn.functional as F

from mae.anomaly.looks import NO_LOOK, WORDS, Looks, find_copies, look_of, read_looks


def picture(seed, size=(60, 80)):
    small = torch.rand(1, 3, 7, 9, generator=torch.Generator().manual_seed(seed))
    return (F.interpolate(small, size=size, mode="bilinear")[0] * 255).to(torch.uint8)


def looks(images, start):
    content = np.arange(start, start + len(images))
    return Looks(content, np.array([look_of(one) for one in images]))


def test_resized_and_noisy_copies_are_near_and_others_are_not():
    images = [picture(seed) for seed in range(40)]
    noise = torch.randint(-2, 3, images[3].shape, generator=torch.Generator().manual_seed(0))
    noisy = (images[3].int() + noise).clamp(0, 255).to(torch.uint8)
    second = [picture(100), noisy, picture(7, (120, 160)), picture(101)]
    found = find_copies(looks(images, 0), looks(second, 1000))
    assert (found.exact, found.near) == (0, 2)
    assert found.flags.tolist() == [False, True, True, False] and found.first == (1, 3)


def test_equal_files_are_exact_copies_even_without_structure():
    blank = look_of(torch.zeros(1, 20, 20, dtype=torch.uint16))
    assert blank.shape == (WORDS,) and blank[0] == NO_LOOK
    first = Looks(np.array([5, 6]), np.stack([blank, blank]))
    second = Looks(np.array([9, 6]), np.stack([blank, blank]))
    found = find_copies(first, second)
    assert (found.exact, found.near, found.first) == (1, 0, (1, 1))
    none = find_copies(first, Looks(np.array([1]), blank[None]))
    assert (none.exact, none.near, none.first) == (0, 0, (-1, -1))


def test_images_of_one_product_are_no_copies_and_noisy_shots_of_one_image_are():
    """All share a shape in the same light, and differ in their texture."""
    chance = torch.Generator().manual_seed(0)
    shape = picture(5).float()

    def shot(number):
        own = torch.Generator().manual_seed(number)
        texture = 12 * torch.randn(1, 60, 80, generator=own)
        return (shape + texture).clamp(0, 255)

    def noisy(image):
        noise = torch.randn(image.shape, generator=chance)
        return (image + noise).round().clamp(0, 255).to(torch.uint8)

    first = looks([noisy(shot(n)) for n in range(50)], 0)
    second = looks([noisy(shot(n)) for n in (60, 61, 3, 62)], 1000)
    found = find_copies(first, second)
    assert found.near == 1 and found.first == (2, 3)
    again = read_looks(first.table())
    assert all(np.array_equal(*pair) for pair in zip(again, first, strict=True))
