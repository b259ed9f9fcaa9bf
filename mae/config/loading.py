"""Loading of settings: defaults, a YAML file of differences, `section.key=value` overrides.

All errors are reported at once, one line each, with the file or command line they come from.
"""

import copy
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from mae.base.errors import UserError
from mae.base.redaction import for_record
from mae.config.migration import (
    SWITCHES,
    fold_switches,
    is_recorded_config,
    migrate_settings,
    rename_old_keys,
    renamed_keys,
)
from mae.config.recipes import recipe_name
from mae.config.sections import OF_THIS_CALL, Config, sections
from mae.config.types import describe_error, flatten, keys_of
from mae.config.validation import conflicting_settings
from mae.config.yaml_file import read_yaml
from mae.objectives.registry import (
    DEFAULT,
    OBJECTIVES,
    config_type,
    declaration,
    declarations,
)

MAX_LISTED = 5
"""maximum number of allowed values that a message lists"""


def load_config(
    path: str | Path | None,
    overrides: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
    command: str | None = None,
) -> Config:
    """Load settings from `base` (nested), the YAML at `path` and `section.key=value` overrides.

    Later sources take precedence; what none of them sets is the objective's or the core's default.
    With `command` (such as `mae pretrain`), objectives that another command trains are refused.
    Raises UserError with one line per error.
    """
    values, source, errors = _read_sources(path, overrides, base)
    if command is not None:
        check_objective(command, values.get("objective", DEFAULT))
    return parse_config(values, source, errors)


def given_settings(
    overrides: Sequence[str], command: str, base: Mapping[str, Any] | None = None
) -> tuple[Config, dict[str, Any]]:
    """Settings of the command line alone: a config, and theirs as section.key → value.

    `base` (nested): values of the config where the command line has none.  Conflicts with defaults
    are not looked for; raises UserError as `load_config` otherwise.
    """
    values, source, errors = _read_sources(None, overrides, base)
    check_objective(command, values.get("objective", DEFAULT))
    config = parse_config(values, source, errors, check_conflicts=False)
    return config, values_of(config, [key for key in source if source[key] != "defaults"])


def values_of(config: Config, keys: Iterable[str]) -> dict[str, Any]:
    """Values of settings as recorded, by section.key (of keys below that: the whole value)."""
    valid = config.model_dump(mode="json")
    found = {}
    for key in keys:
        section, _, rest = key.partition(".")
        name = rest.partition(".")[0]
        if section == "log" and name in SWITCHES:
            name = "trackers"
        found[f"{section}.{name}" if rest else section] = (
            valid[section][name] if rest else valid[section]
        )
    return found


class _Sources(NamedTuple):
    """Nested settings, where each dotted key was written, and errors of the command line."""

    values: dict[str, Any]
    source: dict[str, str]
    errors: list[str]


def _read_sources(
    path: str | Path | None, overrides: Sequence[str], base: Mapping[str, Any] | None
) -> _Sources:
    values: dict[str, Any] = fold_switches(copy.deepcopy(dict(base or {})))
    source = dict.fromkeys(flatten(values), "defaults")
    if path is not None:
        path = Path(path)
        written = read_yaml(path)
        if is_recorded_config(written):
            written = of_a_stranger(migrate_settings(written, str(path)))
        else:
            written = {**written, "recipe": recipe_name(path)}
        written = rename_old_keys(written, str(path))
        source |= dict.fromkeys(flatten(written), str(path))
        _merge(values, written)
        values = fold_switches(values)
        values.setdefault("output", f"runs/{path.stem}")
    errors, spelling = [], dict[str, str]()
    for override in overrides:
        typed, equals, text = override.partition("=")
        key = renamed_keys().get(typed, typed)
        if spelling.setdefault(key, typed) != typed:
            errors.append(f"command line: {spelling[key]} and {typed} are one setting: give {key}")
        if not equals or not key:
            errors.append(f"command line: {override}: write section.key=value")
            continue
        if key == "recipe":
            errors.append("command line: recipe: is recorded, not set: give its name as a word")
            continue
        value = _parse_value(text)
        if key == "output" and not isinstance(value, str):
            value = text  # a folder may be called 2026-01-01 or [v2]
        error = _assign(values, key, value)
        errors += [f"command line: {key}: {error}"] if error else []
        source[key] = "command line"
    return _Sources(values, source, errors)


def check_objective(command: str, name: object) -> None:
    """Raise UserError unless `command` trains the objective `name`."""
    own = [declared.name for declared in declarations(command)]
    if name in own:
        return
    if name in OBJECTIVES:
        raise UserError(f"objective: {name}: {declaration(str(name)).command} trains it")
    close = difflib.get_close_matches(str(name), own, n=1)
    hint = f"did you mean {close[0]}?" if close else f"{command} trains {', '.join(own)}"
    raise UserError(f"objective: no {'' if name is None else str(name)!r}, {hint}")


def recorded_config(folder: Path) -> Config:
    """Settings recorded in a run folder, OF_THIS_CALL at their defaults.

    Raises UserError where config.yaml is absent, unreadable or invalid.
    """
    values, where = read_recorded(folder)
    return parse_recorded_config(values, where)


def config_as_recorded(folder: Path) -> Config:
    """All settings recorded in a run folder, for comparison alone; raises as `recorded_config`."""
    values, where = read_recorded(folder)
    values = migrate_settings(values, where)
    return parse_config(values, dict.fromkeys(flatten(values), where))


def read_recorded(folder: Path) -> tuple[dict[str, Any], str]:
    """Content of a run folder's config.yaml, and its path."""
    path = folder / "config.yaml"
    if not path.exists():
        raise UserError(f"{folder}: no run here (no config.yaml)")
    values = read_yaml(path)
    if not values:
        raise UserError(f"{path}: not a config")
    return values, str(path)


def parse_recorded_config(values: dict[str, Any], where: str) -> Config:
    """Config from a run's recorded settings, written by this or an earlier version.

    `where` is their source, for errors.  OF_THIS_CALL are at their defaults: the folder may come
    from somebody else.  Raises UserError with one line per error.
    """
    values = of_a_stranger(migrate_settings(values, where))
    return parse_config(values, dict.fromkeys(flatten(values), where))


def of_a_stranger(values: dict[str, Any]) -> dict[str, Any]:
    """Nested settings without those OF_THIS_CALL."""
    data = values.get("data")
    if not isinstance(data, dict):
        return values
    return {**values, "data": {key: one for key, one in data.items() if key not in OF_THIS_CALL}}


def parse_config(
    values: Mapping[str, Any],
    source: Mapping[str, str],
    errors: Sequence[str] = (),
    check_conflicts: bool = True,
) -> Config:
    """Validate nested `values`; `source` maps dotted keys to where they were written.

    Raises UserError with one line per error, after `errors` from before.
    """
    lines = list(errors)
    config = None
    kind: type[Config] = Config
    try:
        kind = config_type(str(values.get("objective", DEFAULT)))
    except UserError as error:
        lines.append(f"{_source_of('objective', source)}: {error}")
        # The sections that every objective has can still be validated.
        common = sections(Config).keys() - {"model"} | {"output"}
        values = {key: value for key, value in values.items() if key in common}
    try:
        config = kind.model_validate(_with_defaults(kind, fold_switches(dict(values))))
    except ValidationError as error:
        # Only the first error of a key: a union has one for each of its types.
        explained = dict(_explain(one, kind) for one in reversed(error.errors()))
        lines += [
            f"{_source_of(location, source)}: {location}: {explained[location]}"
            for location in reversed(explained)
        ]
    if config is not None and kind is not Config and check_conflicts:
        lines += [
            f"{_source_of(location, source)}: {location}: {message}"
            for location, message in conflicting_settings(config)
        ]
    if lines or config is None:
        raise UserError("\n".join(lines))
    return config


def dump_config(config: Config) -> str:
    """Resolved settings as YAML, from which `load_config` restores the same config.

    Secrets of addresses and the words of `pipe:` commands are left out: whoever reads the run
    folder must not get them, and a run takes them from the settings of each start.
    """
    return yaml.safe_dump(for_record(config.model_dump(mode="json")), sort_keys=False)


def _merge(values: dict[str, Any], newer: Mapping[str, Any]) -> None:
    """Merge `newer` into `values`: sections key by key, everything else is replaced."""
    for key, value in newer.items():
        own = values.get(key)
        if isinstance(own, dict) and isinstance(value, Mapping):
            own.update(value)
        else:
            values[key] = value


def _parse_value(text: str) -> Any:
    """Parse a value of the command line as YAML.

    Brace patterns (`{a,b}`) stay strings, as do names with ` #` or `: ` in them.
    """
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    if isinstance(value, str):
        return value if text.lstrip()[:1] in ("'", '"') else text.strip()
    if isinstance(value, dict | list) and text.lstrip()[:1] not in ("{", "["):
        return text
    is_pattern = isinstance(value, dict) and value and all(v is None for v in value.values())
    return text if is_pattern else value


def _assign(values: dict[str, Any], key: str, value: Any) -> str | None:
    """Set dotted `key` in nested `values`; returns an error where a parent is no section."""
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            return f"{section} is a value, not a section"
    values[last] = value
    return None


def _with_defaults(kind: type[Config], values: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `values` over the objective's own defaults."""
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
    """Convert a pydantic error to (dotted key, message)."""
    keys = [str(part) for part in error["loc"]]
    section = sections(config).get(keys[0])
    if error["type"] == "extra_forbidden":
        known = keys_of(section if section and len(keys) > 1 else config)
        known = [one for one in known if one != "recipe"]  # recorded, not set
        if len(keys) == 1 and (found := _in_sections(keys[0], config)):
            return keys[0], f"unknown key, did you mean {found}?"
        close = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        return ".".join(keys), f"unknown key, {hint}"
    key = ".".join(keys[: 2 if section else 1])
    if key == "model.encoder_kwargs" and len(keys) > 2:
        key += f".{keys[2]}"
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        known = re.findall(r"'(\w+)'", error["ctx"]["expected"])
        close = difflib.get_close_matches(error["input"].lower(), known, n=1)
        if close and len(known) > MAX_LISTED:
            return key, f"{error['input']!r} is unknown, did you mean {close[0]}?"
    if error["type"] == "model_type":
        return key, f"{error['input']!r} should be settings, each on a line below it"
    return key, describe_error(error)


def _in_sections(key: str, config: type[Config]) -> str:
    """Settings of that name with their section, such as train.batch_size; "" for none."""
    own = {name: keys_of(section) for name, section in sections(config).items()}
    own["log"] = [*own["log"], *SWITCHES]
    found = [f"{name}.{key}" for name, keys in own.items() if key in keys]
    every = {one: name for name, keys in own.items() for one in keys}
    close = difflib.get_close_matches(key, every, n=1, cutoff=0.8)
    top = difflib.get_close_matches(key, keys_of(config), n=1, cutoff=0.8)
    return " or ".join(found) or (f"{every[close[0]]}.{close[0]}" if close and not top else "")
