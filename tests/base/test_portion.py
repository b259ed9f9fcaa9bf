"""Portions of divided work."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae.base.errors import PartDone, UserError
from mae.base.portion import ALONE, Portion, launched_portion

LAUNCHED = {
    "RANK": "2",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}


@given(parts=st.integers(0, 300), count=st.integers(1, 60))
def test_every_part_belongs_to_one_portion_and_portions_are_even(parts, count):
    portions = [Portion(number, count).own(parts) for number in range(count)]
    assert [part for own in portions for part in own] == list(range(parts))
    sizes = [len(own) for own in portions]
    assert max(sizes) - min(sizes) <= 1


def test_the_launcher_decides():
    assert launched_portion({}) == ALONE
    assert launched_portion({**LAUNCHED, "WORLD_SIZE": "1", "RANK": "0"}) == ALONE
    assert launched_portion(LAUNCHED) == Portion(2, 4)
    with pytest.raises(UserError, match="MASTER_PORT"):
        launched_portion({name: LAUNCHED[name] for name in LAUNCHED if name != "MASTER_PORT"})


def test_one_process_joins_and_the_others_leave():
    for portion in (ALONE, Portion(0, 3), Portion(is_join=True)):
        assert portion.joins
        portion.leave_to_first()
    with pytest.raises(PartDone, match=r"^$"):
        Portion(1, 3).leave_to_first()
    for number in (0, 2):
        portion = Portion(number, 3, is_task=True)
        assert not portion.joins and not portion.is_launched
        with pytest.raises(PartDone, match=f"part {number + 1} of 3 is done"):
            portion.leave_to_first()


def test_alone_there_is_nobody_to_wait_for():
    assert ALONE.gather(3) == [3]
    ALONE.meet()
    assert ALONE.first_before_others(lambda: 5) == 5
    assert ALONE.from_first(lambda: 5) == 5
    ALONE.raise_common(None)
    with pytest.raises(UserError, match="bad"):
        ALONE.raise_common(UserError("bad"))
