"""Reference of the settings of a run, from their declarations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mae.config.sections import Config, sections
from mae.config.types import Section, flatten
from mae.objectives.registry import declarations

from .markdown import code, plain, table

HEAD = ("setting", "default", "meaning")


def settings_page() -> str:
    """Markdown of all settings: of every run, then of each objective."""
    lines = [table(HEAD, [_row(key, Config.model_fields[key]) for key in ("output", "objective")])]
    for name, section in sections(Config).items():
        if name != "model":
            lines += [f"## {name}", plain(section.__doc__ or ""), _table(name, section)]
    seen: set[str] = set()
    for command in ("mae pretrain", "mae finetune"):
        for declared in declarations(command):
            if declared.name in seen:
                continue
            seen.add(declared.name)
            lines += [f"## objective: {declared.name}", plain(declared.summary + ".")]
            lines += [_table("model", declared.model)]
            if declared.section:
                lines += [_table(*declared.section)]
            if defaults := flatten(declared.defaults):
                rows = [(code(key), code(_as_yaml(value))) for key, value in defaults.items()]
                lines += ["Defaults of this objective:", table(("setting", "default"), rows)]
    return "\n\n".join(lines)


def _table(name: str, section: type[Section]) -> str:
    fields = section.model_fields.items()
    return table(HEAD, [_row(f"{name}.{field.alias or key}", field) for key, field in fields])


def _row(key: str, field: Any) -> tuple[str, str, str]:
    default = _as_yaml(field.get_default(call_default_factory=True))
    return code(key), code(default), plain(field.description or "")


def _as_yaml(value: Any) -> str:
    """A value as it is written in a YAML file, in one line; nothing for None."""
    if value is None or isinstance(value, str | Path):
        return str(value or "")
    return yaml.safe_dump(_builtin(value), default_flow_style=True, width=1000).split("\n...")[0]


def _builtin(value: Any) -> Any:
    """A value in types of YAML."""
    if isinstance(value, Mapping):
        return {key: _builtin(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [_builtin(part) for part in value]
    return value
