"""All settings with defaults and meanings, for --help."""

from mae.config import Config, sections
from mae.objectives.declaration import Declaration
from mae.objectives.registry import declarations
from mae.section import Section, flatten


def describe_settings(command: str) -> str:
    """All settings of the objectives that `command` trains: default and meaning, for --help."""
    lines = []
    known = declarations(command)
    for key in ("output", "objective"):
        field = Config.model_fields[key]
        lines.append(f"{key} = {field.default!r}\n      {field.description}")
    lines += [f"      {one.name}: {one.summary}" for one in known]
    for name, section in sections(Config).items():
        if name != "model":
            lines += _describe_section(name, section)
    for one in known:
        lines += _describe_objective(one)
    return "\n".join(lines)


def _describe_objective(one: Declaration) -> list[str]:
    lines = [f"of objective: {one.name}", *_describe_section("model", one.model)]
    lines += [f"  {key} = {value}\n      instead" for key, value in flatten(one.defaults).items()]
    return lines + (_describe_section(*one.section) if one.section else [])


def _describe_section(name: str, section: type[Section]) -> list[str]:
    lines = [f"{name}:  {section.__doc__}"]
    for key, field in section.model_fields.items():
        default = field.get_default(call_default_factory=True)
        lines.append(f"  {name}.{field.alias or key} = {default}\n      {field.description}")
    return lines
