import pytest
import torch.distributed

from mae.base.errors import UserError
from mae.data.stream_settings import check_settings, launched_ranks

USUAL = {"shards": "a.tar", "batch_size": 8, "rank": 0, "world_size": 1, "order": "global"}


def checked(further=None, **arguments):
    return check_settings(USUAL | arguments, further or {})


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0 should be greater than 0"),
        ({"batch_size": 9, "world_size": 2}, "batch_size: 9 does not divide among 2 ranks"),
        ({"rank": 2, "world_size": 2}, "rank: 2, but world_size is 2: ranks count from 0"),
        ({"rank": None, "world_size": 2}, "give both rank and world_size, or neither"),
        ({"order": "globel"}, "order: 'globel' should be 'global', 'window', 'lanes' or"),
        ({"order": "lanes"}, "lanes: 64 does not divide batch_size = 8"),
        ({"order": "lanes", "batch_size": None}, "order: lanes divide a batch: give batch_size"),
        ({"img_size": 16, "decode": False}, "img_size: crops of files that are not decoded"),
        ({"seed": -1}, "seed: -1 should be greater than or equal to 0"),
        ({"further": {"windw": 3}}, "windw: unknown, did you mean window?"),
        ({"further": {"own_statistics": True}}, "own_statistics: unknown"),
        ({"further": {"window": 0}}, "window: 0 should be greater than 0"),
        ({"further": {"repeats": 3}}, "repeats: 3 does not divide batch_size = 8"),
        ({"further": {"scale": (0.5, 2)}}, "scale: a crop of 2 times the image's area"),
        ({"further": {"last": "short"}}, "last: 'short' should be 'whole' or 'cut'"),
        ({"order": "lanes", "further": {"lanes": 4, "last": "cut"}}, "repeat samples of lanes"),
        (
            {"shards": {"a.tar": 1, "b.tar": 2}, "further": {"last": "cut"}},
            "last: cut would lose and repeat samples of a mixture: one stream each, or whole",
        ),
        ({"shards": {"a.tar": 1, "b.tar": 1e-9}}, "mixture: a weight below a thousandth"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments, message):
    with pytest.raises(UserError) as error:
        checked(**arguments)
    assert message in str(error.value) and str(error.value).startswith("ShardStream: ")
    assert "\n" not in str(error.value)


def test_all_mistakes_at_once():
    with pytest.raises(UserError) as error:
        checked({"windw": 3}, batch_size=0, seed="x")
    assert all(word in str(error.value) for word in ("windw", "batch_size", "seed"))


def test_lanes_and_ranks():
    assert checked({"lanes": 4}, order="lanes", world_size=2).lanes == 4
    with pytest.raises(UserError, match="lanes: 4 do not divide among 8 ranks"):
        checked({"lanes": 4}, order="lanes", world_size=8)


def test_what_a_state_must_match():
    assert checked().compared() == checked(batch_size=4, rank=1, world_size=2).compared()
    crops = checked(img_size=16)
    assert crops.compared() != checked({"scale": (0.3, 1)}, img_size=16).compared()
    lanes = [checked({"lanes": 2}, order="lanes", batch_size=n).compared() for n in (2, 4)]
    assert lanes[0] != lanes[1]  # its order depends on the batch size
    mixtures = [checked(shards={"a.tar": 1, "b.tar": w}).compared() for w in (1, 2)]
    assert mixtures[0] != mixtures[1]


def test_ranks_of_the_launcher(monkeypatch):
    assert launched_ranks() == (0, 1)
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(UserError, match=r"has RANK=2, WORLD_SIZE=: set both, or give rank"):
        launched_ranks()
    monkeypatch.setenv("WORLD_SIZE", "four")
    with pytest.raises(UserError, match="WORLD_SIZE=four"):
        launched_ranks()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launched_ranks() == (2, 4)
    assert checked(rank=None, world_size=None).rank == 2
    assert checked(rank=0, world_size=1).world_size == 1  # as given


def test_ranks_of_the_process_group_come_first(monkeypatch):
    monkeypatch.setenv("RANK", "7")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    assert launched_ranks() == (1, 3)
