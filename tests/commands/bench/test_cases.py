"""Benchmark cases: their settings and names."""

from mae.commands.bench import cases
from mae.commands.bench.cases import Case
from mae.commands.bench.command import MODES


def test_the_command_line_offers_all_modes():
    assert MODES[:2] == tuple(cases.COMPILED)


def test_options_override_the_config_file(toy):
    case = Case(config_file=str(toy), batch_size=4)
    config = case._replace(img_size=32, mode="compile", precision="bf16").config()
    assert config.data.img_size == (32, 32) and config.train.precision == "bf16"
    assert config.train.compile is True and config.train.batch_size == 4
    assert config.train.num_processes == 0  # the number is the run's, not the case's
    assert case._replace(settings="model.beta=0.5").config().model_dump()["model"]["beta"] == 0.5
    assert case.config().data.img_size == (16, 16)
