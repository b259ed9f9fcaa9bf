"""Variables of a launcher."""

import pytest

from mae.base.errors import UserError
from mae.base.launch import check_launch
from mae.pretrain import main

WHOLE = {
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize(
    "environment", [{}, WHOLE, {"WORLD_SIZE": "1"}, {"MASTER_ADDR": "head", "MASTER_PORT": "1"}]
)
def test_whole_or_absent_variables_are_accepted(environment):
    check_launch(environment)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2, but no RANK, LOCAL_RANK, MASTER_PORT, MASTER_ADDR"),
        ({"RANK": "0"}, "RANK=0, but no LOCAL_RANK, WORLD_SIZE"),
        ({**WHOLE, "MASTER_ADDR": ""}, "but no MASTER_ADDR"),
        ({**WHOLE, "MASTER_PORT": "tcp"}, "MASTER_PORT=tcp is no number"),
        ({**WHOLE, "RANK": "2"}, "RANK counts from 0"),
    ],
)
def test_half_a_launch_is_refused(environment, message):
    with pytest.raises(UserError) as caught:
        check_launch(environment)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("environment: ") and message in line and "accelerate launch" in line


def test_a_command_that_would_wait_for_others_does_not(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["configs/none.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mae: environment: WORLD_SIZE=2, but no RANK")
