import pytest

from mae.config.loading import load_config
from mae.config.sections import sections
from mae.config.settings_help import OFTEN, describe_settings, often_typed
from mae.objectives.registry import OBJECTIVES, config_type, declaration, declarations


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_setting_is_described(name):
    config = config_type(name)
    text = describe_settings(declaration(name).command)
    assert text.startswith("output = ''\n      ")
    assert f"      {name}: {declaration(name).summary}" in text
    for section_name, section in sections(config).items():
        assert section.__doc__ and f"{section_name}:  {section.__doc__}" in text
        for key, field in section.model_fields.items():
            assert field.description, f"{section_name}.{key}"
            default = field.get_default(call_default_factory=True)
            line = f"  {section_name}.{field.alias or key} = {default}\n      {field.description}"
            assert line in text
    recorded = {"recipe"}
    assert set(config.model_fields) == {"output", "objective", *recorded, *sections(config)}


@pytest.mark.parametrize("command", OFTEN)
def test_what_is_most_often_typed_is_valid_and_at_the_end(command):
    """Where a terminal stops after hundreds of lines."""
    words = [*OFTEN[command]]
    kind = declarations(command)[0].name
    base = {"objective": kind, "data": {"img_size": 64}, "optim": {"warmup_epochs": 1}}
    load_config(None, words, base, command=command)
    text = often_typed(command)
    assert text.splitlines()[-1].strip().startswith(words[-1])
    assert len(text.splitlines()) < 20
