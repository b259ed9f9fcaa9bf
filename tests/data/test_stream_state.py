import json

import pytest

from mae.base.errors import UserError
from mae.data.indexing import build_manifest
from mae.data.stream_state import FORMAT, position_of, stream_state

SETTINGS = {"seed": 0, "scale": [0.2, 1.0]}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, make_shards):
    return build_manifest([make_shards(tmp_path_factory.mktemp("shards"), 3)])


def test_through_json(manifest):
    state = stream_state(12, manifest, SETTINGS)
    assert position_of(json.loads(json.dumps(state)), manifest, SETTINGS) == 12
    assert len(json.dumps(state)) < 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": FORMAT + 1}, "a state of format 2; this version of mae reads format 1"),
        ({"position": -1}, "a damaged state: position -1"),
        ({"position": True}, "a damaged state: position True"),
        ({"position": 1.5}, "a damaged state: position 1.5"),
        ({"settings": None}, "a damaged state"),
        ({"data": "0" * 64}, "the state is of other data (000000000000…) than these shards"),
        ({"data": None}, "the state is of other data (None…)"),
        ({"settings": {**SETTINGS, "seed": 1}}, "saved with other settings: seed 1 → 0"),
        ({"settings": {"seed": 0}}, "saved with other settings: scale None → [0.2, 1.0]"),
        ({"settings": {**SETTINGS, "new": 2}}, "saved with other settings: new 2 → None"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_in_one_line(manifest, change, message):
    state = {**stream_state(12, manifest, SETTINGS), **change}
    with pytest.raises(UserError) as error:
        position_of(state, manifest, SETTINGS)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith("load_state_dict: ")


@pytest.mark.parametrize("state", [None, 3, {}, {"position": 1}, {"model": {}, "optimizer": {}}])
def test_something_else_is_refused(manifest, state):
    with pytest.raises(UserError, match="no state of a ShardStream"):
        position_of(state, manifest, SETTINGS)
