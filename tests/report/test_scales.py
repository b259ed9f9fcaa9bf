import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae.report.scales import MOST_TICKS, compact, fit, percent, reduce

numbers = st.floats(-1e30, 1e30)


def test_buckets_keep_mean_and_extremes_of_their_points():
    points = [(float(x), float(x % 2)) for x in range(1, 1001)]
    found = reduce(points, (0, 1000), 10)
    assert len(found) == 10 and sum(bucket.points for bucket in found) == 1000
    assert all((bucket.low, bucket.high) == (0, 1) for bucket in found)
    assert all(bucket.mean == pytest.approx(0.5, abs=0.01) for bucket in found)
    assert [bucket.x for bucket in found] == sorted(bucket.x for bucket in found)
    assert found[-1].x == 1000  # where the run stands


def test_few_points_stay_as_they_are_and_gaps_stay_empty():
    assert [tuple(b)[:2] for b in reduce([(1, 5), (9, 7)], (0, 10), 2)] == [(1, 5), (9, 7)]
    ends = [(x / 100, 0.0) for x in range(100)] + [(9 + x / 100, 1.0) for x in range(100)]
    assert {b.mean for b in reduce(ends, (0, 10), 10)} == {0, 1}


@given(st.lists(numbers, min_size=1), st.booleans())
def test_whatever_the_values_are_places_and_ticks_stand_inside(values, wants_log):
    scale = fit(values, wants_log=wants_log)
    assert scale.low < scale.high
    assert all(0 <= scale.place(value) <= 1 for value in values)
    ticks = scale.ticks()
    assert len(ticks) <= MOST_TICKS + 1
    assert all(0 <= scale.place(tick) <= 1 for tick in ticks)


def test_ticks_are_few_and_round():
    assert fit([0, 97], least=0.0).ticks() == [0, 25, 50, 75, 100]
    assert fit([0.21, 0.83]).ticks() == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert fit([0.2, 3.6], wants_log=True).ticks() == pytest.approx([0.2, 0.5, 1, 2])
    assert fit([1e-8, 1e4], wants_log=True).ticks()[0] == pytest.approx(1e-8)


def test_logarithmic_only_where_it_pays_and_can_be():
    assert fit([1, 100], wants_log=True).is_log
    assert not fit([1, 2], wants_log=True).is_log
    assert not fit([0, 100], wants_log=True).is_log
    assert not fit([1, 100]).is_log


def test_what_lies_beyond_floor_and_ceiling_is_drawn_at_the_edge():
    scale = fit([-30, 0.2, 0.6, 50], floor=-0.25, ceiling=0.8)
    assert scale.low == -0.25 and 0.8 < scale.high < 1
    assert scale.place(-30) == 0 and scale.place(50) == 1


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (1234, "1,234"),
        (12_000, "12k"),
        (3_400_000, "3.4M"),
        (1.5e-4, "1.5e-4"),
        (-0.25, "-0.25"),
        (1e30, "1e+30"),
    ],
)
def test_numbers_are_short(value, written):
    assert compact(value) == written


def test_shares():
    assert [percent(x) for x in (0, 0.004, 0.25)] == ["0%", "0.4%", "25%"]
