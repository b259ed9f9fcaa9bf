"""Settings from defaults, then one YAML file of differences, then `section.key=value`.

All mistakes are reported at once, each in a line that says where it stands.
"""

import copy
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mae.base.errors import UserError
from mae.config.migration import is_recorded, moved_keys, of_an_earlier_version, with_new_names
from mae.config.sections import Config, sections
from mae.config.types import Section, flatten, keys_of
from mae.config.validation import conflicting_settings
from mae.objectives.declaration import Declaration
from mae.objectives.registry import (
    DEFAULT,
    OBJECTIVES,
    config_type,
    declaration,
    declarations,
)

FEW = 5
"""values that a message lists"""


def load_config(
    path: str | Path | None,
    overrides: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
    command: str | None = None,
) -> Config:
    """Defaults, `base` (nested), the YAML at `path`, then `section.key=value` overrides.

    `command` trains the run: an objective that another one trains is refused.  Raises UserError
    with one line per mistake.
    """
    values: dict[str, Any] = copy.deepcopy(dict(base or {}))
    source = dict.fromkeys(flatten(values), "defaults")
    if path is not None:
        path = Path(path)
        written = read_yaml(path)
        if is_recorded(written):
            written = of_an_earlier_version(written, str(path))
        written = with_new_names(written, str(path))
        source |= dict.fromkeys(flatten(written), str(path))
        _merge(values, written)
        values.setdefault("output", f"runs/{path.stem}")
    mistakes, spelled = [], dict[str, str]()
    for override in overrides:
        typed, equals, text = override.partition("=")
        key = moved_keys().get(typed, typed)
        if spelled.setdefault(key, typed) != typed:
            mistakes.append(f"command line: {spelled[key]} and {typed} are one setting: give {key}")
        if not equals or not key:
            mistakes.append(f"command line: {override}: write section.key=value")
            continue
        error = _assign(values, key, _parse_value(text))
        mistakes += [f"command line: {key}: {error}"] if error else []
        source[key] = "command line"
    if command is not None:
        refuse_other_objectives(command, values.get("objective", DEFAULT))
    return parse_config(values, source, mistakes)


def refuse_other_objectives(command: str, name: object) -> None:
    """UserError unless `command` trains the objective `name`."""
    own = [one.name for one in declarations(command)]
    if name in own:
        return
    if name in OBJECTIVES:
        raise UserError(f"objective: {name}: {declaration(str(name)).command} trains it")
    close = difflib.get_close_matches(str(name), own, n=1)
    hint = f"did you mean {close[0]}?" if close else f"{command} trains {', '.join(own)}"
    raise UserError(f"objective: no {'' if name is None else str(name)!r}, {hint}")


def recorded_config(folder: Path) -> Config:
    """The settings of the run in `folder`; UserError where there are none."""
    path = folder / "config.yaml"
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}: no run here (no config.yaml)") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not readable: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a config")
    return read_settings(values, str(path))


def read_settings(values: dict[str, Any], where: str) -> Config:
    """All settings of a run, as this or an earlier version wrote them; `where` is for messages."""
    values = of_an_earlier_version(values, where)
    return parse_config(values, dict.fromkeys(flatten(values), where))


def parse_config(
    values: Mapping[str, Any], source: Mapping[str, str], mistakes: Sequence[str] = ()
) -> Config:
    """Check `values` (nested); `source` says where each dotted key was written."""
    lines = list(mistakes)
    config = None
    kind: type[Config] = Config
    try:
        kind = config_type(str(values.get("objective", DEFAULT)))
    except UserError as error:
        lines.append(f"{_source_of('objective', source)}: {error}")
        # What is left can be checked: the sections that every objective has.
        common = sections(Config).keys() - {"model"} | {"output"}
        values = {key: value for key, value in values.items() if key in common}
    try:
        config = kind.model_validate(_with_defaults(kind, values))
    except ValidationError as error:
        # The first complaint about a key is enough: a union has one for each of its types.
        explained = dict(_explain(one, kind) for one in reversed(error.errors()))
        lines += [
            f"{_source_of(location, source)}: {location}: {explained[location]}"
            for location in reversed(explained)
        ]
    if config is not None and kind is not Config:
        lines += [
            f"{_source_of(location, source)}: {location}: {message}"
            for location, message in conflicting_settings(config)
        ]
    if lines or config is None:
        raise UserError("\n".join(lines))
    return config


def dump_config(config: Config) -> str:
    """The resolved settings as YAML that `load_config` reads back to the same."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


class _Loader(yaml.SafeLoader):
    """Refuses a key that is written twice, of which PyYAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value} is written twice", problem_mark=key.start_mark
                )
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """What is written, nested; UserError where that is not readable."""
    try:
        values = yaml.load(path.read_text(), _Loader)
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = f" ({path.parent} has {', '.join(near)})" if near else ""
        raise UserError(f"{path}: no such config file{hint}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a config: write sections such as `model:`")
    # A section whose lines are all commented out is None to YAML.
    plain = ("output", "objective")
    return {k: {} if v is None and k not in plain else v for k, v in values.items()}


def _merge(values: dict[str, Any], newer: Mapping[str, Any]) -> None:
    """Sections key by key; everything else is replaced."""
    for key, value in newer.items():
        own = values.get(key)
        if isinstance(own, dict) and isinstance(value, Mapping):
            own.update(value)
        else:
            values[key] = value


def _parse_value(text: str) -> Any:
    # A brace pattern is YAML's flow mapping to the parser, but a string to the user.
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    is_pattern = isinstance(value, dict) and value and all(v is None for v in value.values())
    return text if is_pattern else value


def _assign(values: dict[str, Any], key: str, value: Any) -> str | None:
    """Set dotted `key`; the complaint, if its section is no section."""
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            return f"{section} is a value, not a section"
    values[last] = value
    return None


def _with_defaults(kind: type[Config], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` above what the objective has instead of the core's defaults."""
    name = values.get("objective", DEFAULT)
    defaults = {} if kind is Config else declaration(str(name)).defaults
    merged: dict[str, Any] = {section: dict(own) for section, own in defaults.items()}
    _merge(merged, values)
    return merged


def _source_of(location: str, source: Mapping[str, str]) -> str:
    for key, where in reversed(list(source.items())):
        if location == key or location.startswith(f"{key}.") or key.startswith(f"{location}."):
            return where
    return "defaults"


def _explain(error: Any, config: type[Config]) -> tuple[str, str]:
    """A pydantic error as (dotted key, message in plain words)."""
    keys = [str(part) for part in error["loc"]]
    section = sections(config).get(keys[0])
    if error["type"] == "extra_forbidden":
        known = keys_of(section if section and len(keys) > 1 else config)
        close = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        return ".".join(keys), f"unknown key, {hint}"
    key = ".".join(keys[: 2 if section else 1])
    if key == "model.encoder_kwargs" and len(keys) > 2:
        key += f".{keys[2]}"
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        known = re.findall(r"'(\w+)'", error["ctx"]["expected"])
        close = difflib.get_close_matches(error["input"].lower(), known, n=1)
        if close and len(known) > FEW:
            return key, f"{error['input']!r} is unknown, did you mean {close[0]}?"
    if error["type"] == "model_type":
        return key, f"{error['input']!r} should be settings, each on a line below it"
    message = error["msg"]
    should_be = message.startswith("Input should be ")
    return key, f"{error['input']!r}{message[5:] if should_be else f': {message}'}"


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
