"""Tables of frequencies: integers of the same sum, measured, kept in a file, and checked."""

from fractions import Fraction

import numpy as np
import pytest

from mae.base.errors import UserError
from mae.compression.range_coder import TOTAL
from mae.compression.tables import (
    MOST_PARTS,
    CodeCounter,
    bits,
    frequencies,
    parse_tables,
    read_tables,
    smoothed,
)

MODEL = "ab" * 32


def counted(images: int, by_position: bool):
    """Tables of 8 codes in maps of 2 x 2 and 4 x 4."""
    generator = np.random.default_rng(0)
    grids = [(2, 2), (4, 4)]
    counter = CodeCounter(MODEL, 8, grids)
    positions = np.arange(20) if by_position else np.zeros(20, int)
    codes = (positions + generator.integers(0, 3, (images, 20))) % 8
    counter.add(codes[: images // 2], grids)
    counter.add(codes[images // 2 :], grids)
    return counter.tables(), codes


def test_frequencies_are_those_of_exact_arithmetic():
    weights = np.random.default_rng(1).integers(0, 1000, (5, 40))
    weights[2, 3] = 0
    found = frequencies(weights)
    assert (found >= 1).all() and (found.sum(1) == TOTAL).all()
    shares = [Fraction(int(one), int(weights[2].sum())) for one in weights[2]]
    exact = [1 + int(share * (TOTAL - 40)) for share in shares]
    largest = int(np.argmax(exact))
    exact[largest] += TOTAL - sum(exact)
    assert found[2].tolist() == exact


def test_codes_that_were_never_seen_can_be_written():
    table = smoothed(np.array([1000, 0, 0, 5]))
    assert table.tolist() == [int(one) for one in table] and table.min() >= 1
    assert bits(np.array([[1]]), table) > bits(np.array([[0]]), table)


def test_tables_of_positions_only_where_they_pay():
    alike, _ = counted(400, by_position=False)
    assert alike.backing == 0 and alike.of(1, (4, 4)).shape == (8,)
    different, codes = counted(400, by_position=True)
    assert different.backing > 0 and different.of(1, (4, 4)).shape == (16, 8)
    assert different.of(1, (6, 4)).shape == (8,)  # of another size: the shared one
    own = different.of(1, (4, 4))
    assert bits(codes[:, 4:], own) < 0.7 * bits(codes[:, 4:], different.of(1, (1, 1)))
    assert (own.sum(1) == TOTAL).all()


@pytest.mark.parametrize("by_position", [False, True])
def test_the_file_gives_the_same_tables(by_position, tmp_path):
    tables, _ = counted(100, by_position)
    tables.write(tmp_path / "t.maet")
    again = read_tables(tmp_path / "t.maet")
    assert again.checksum == tables.checksum and again.model == MODEL and again.parts == 100
    for level, grid in enumerate([(2, 2), (4, 4)]):
        assert np.array_equal(again.of(level, grid), tables.of(level, grid))


def test_any_flipped_bit_or_cut_is_refused():
    content, _ = counted(100, True)
    data = content.content
    for place in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(UserError, match=r"t.maet: (holds no|tables of version|is damaged)"):
            parse_tables(bytes(damaged), "t.maet")
        with pytest.raises(UserError, match=r"^t\.maet: "):
            parse_tables(data[:place], "t.maet")


def test_tables_of_more_parts_than_positions_allow_are_whole():
    """Images of thousands of tiles: their own file is not refused as damaged."""
    tables, codes = counted(2 * MOST_PARTS + 6, by_position=True)
    again = parse_tables(tables.content, "t.maet")
    assert again.parts == len(codes) and again.backing > 0
    first = codes[:MOST_PARTS, 4:]
    placed = again.levels[1].positions
    assert placed is not None and (placed.sum(1) == MOST_PARTS).all()
    assert np.array_equal(placed[3], np.bincount(first[:, 3], minlength=8))
    assert again.levels[1].all.sum() == codes[:, 4:].size
    assert (again.of(1, (4, 4)).sum(1) == TOTAL).all()


def test_no_images_are_refused():
    with pytest.raises(UserError, match="no image to measure"):
        CodeCounter(MODEL, 8, [(2, 2)]).tables()
