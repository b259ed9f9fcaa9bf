"""Start of a run: what is said before torch trains."""

import pytest

from mae.config.loading import load_config
from mae.training.start import start


@pytest.mark.parametrize(("num_processes", "is_said"), [(0, True), (1, False)])
def test_idle_gpus_are_named_unless_the_number_is_set(num_processes, is_said, monkeypatch, capsys):
    monkeypatch.setattr("mae.training.start.idle_gpus", lambda: "1 of 8 GPUs are used: …")
    monkeypatch.setattr("mae.training.train.train", lambda *given: None)
    config = load_config(None, [f"train.num_processes={num_processes}"])
    assert start(lambda: config) == 0
    assert ("1 of 8 GPUs" in capsys.readouterr().err) == is_said
