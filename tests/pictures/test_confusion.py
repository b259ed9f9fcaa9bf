"""Pixels of the confusion matrix, found by colour, not by the positions of the code."""

import numpy as np
import pytest

from mae.pictures.confusion import draw_confusion


def cells(image, count):
    """[count count 3]: the colours of the cells, away from what is written on them."""
    pixels = np.array(image).astype(int)
    frame = (pixels == (0xC9, 0xCC, 0xD1)).all(2)
    rows, columns = np.nonzero(frame)
    top, left = rows.min() + 1, columns.min() + 1
    cell = (rows.max() - top) // count
    assert cell == (columns.max() - left) // count
    at = np.arange(count) * cell + min(2, cell // 2)
    return pixels[top + at][:, left + at]


def darkness(colours):
    return 765 - colours.sum(-1)


def test_large_shares_are_dark_and_small_ones_light():
    matrix = np.array([[9, 1, 0], [5, 5, 0], [0, 0, 20]])
    found = darkness(cells(draw_confusion(matrix, ["cat", "dog", "eel"]), 3))
    assert found[2, 2] > found[0, 0] > found[1, 1] > found[0, 1] > found[0, 2] == 0
    assert found[1, 0] == found[1, 1], "equal shares, equal colours"


def test_rows_are_shares_for_any_class_sizes():
    one = draw_confusion(np.array([[3, 1], [0, 2]]), ["a", "b"])
    other = draw_confusion(np.array([[300, 100], [0, 2]]), ["a", "b"])
    assert np.array_equal(np.array(one), np.array(other))


def test_a_class_without_images_is_a_blank_row():
    found = darkness(cells(draw_confusion(np.array([[2, 0], [0, 0]]), ["a", "b"]), 2))
    assert found[0, 0] > 0 and not found[1].any()


@pytest.mark.parametrize("count", [1, 2, 40, 41, 300, 950])
def test_any_number_of_classes(count):
    image = draw_confusion(np.eye(count, dtype=np.int64), [f"class {i}" for i in range(count)], "t")
    assert max(image.size) < 1700
    found = darkness(cells(image, count))
    assert (np.diag(found) > 300).all() and found.sum() == np.trace(found)


def test_names_of_any_length_and_letters():
    names = ["x" * 500, "Küken – 雛", "", "a\nb"]
    image = draw_confusion(np.eye(4, dtype=np.int64), names, "title " * 100)
    assert image.width < 500
    assert (np.diag(darkness(cells(image, 4))) > 300).all()
