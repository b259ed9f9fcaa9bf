"""Settings from defaults, then one YAML file of differences, then `section.key=value`.

All mistakes are reported at once, each in a line that says where it stands.
"""

import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mae.config import SECTIONS, Config
from mae.contradictions import contradictions
from mae.errors import UserError
from mae.section import Section

FREE_ON_RESUME = (
    "output",
    "data.train",  # the same samples elsewhere: the checkpoint's fingerprint decides
    "data.val",
    "data.workers",
    "data.index_dir",
    "data.cache_dir",
    "data.cache_gb",
    "data.allow_pipe",
    "data.max_bad",
    "train.attention",
    "train.compile",
    "train.grad_checkpointing",
    "train.max_device_batch",
    "train.num_processes",
    "train.checkpoint_every",
    "train.keep_last",
    "train.epochs",  # more of them: the learning rate then follows the longer schedule
    "train.checkpoint_minutes",
    "train.keep_every",
    "train.timeout_minutes",
    "guard.max_skipped",
    "guard.spike",
    "guard.rollback",
    "guard.max_rollbacks",
)
"""Settings that do not decide what is learned: they may change between the starts of a run."""


def load_config(
    path: str | Path | None,
    overrides: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
) -> Config:
    """Defaults, `base` (nested), the YAML at `path`, then `section.key=value` overrides.

    Raises UserError with one line per mistake.
    """
    values: dict[str, Any] = copy.deepcopy(dict(base or {}))
    source = dict.fromkeys(flatten(values), "defaults")
    if path is not None:
        path = Path(path)
        written = read_yaml(path)
        source |= dict.fromkeys(flatten(written), str(path))
        _merge(values, written)
        values.setdefault("output", f"runs/{path.stem}")
    mistakes = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            mistakes.append(f"command line: {override}: write section.key=value")
            continue
        error = _assign(values, key, _parse_value(text))
        mistakes += [f"command line: {key}: {error}"] if error else []
        source[key] = "command line"
    return parse_config(values, source, mistakes)


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
    return parse_config(values, dict.fromkeys(flatten(values), str(path)))


def parse_config(
    values: Mapping[str, Any], source: Mapping[str, str], mistakes: Sequence[str] = ()
) -> Config:
    """Check `values` (nested); `source` says where each dotted key was written."""
    lines = list(mistakes)
    config = None
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        # The first complaint about a key is enough: a union has one for each of its types.
        explained = dict(map(_explain, reversed(error.errors())))
        lines += [
            f"{_source_of(location, source)}: {location}: {explained[location]}"
            for location in reversed(explained)
        ]
    if config is not None:
        lines += [
            f"{_source_of(location, source)}: {location}: {message}"
            for location, message in contradictions(config)
        ]
    if lines or config is None:
        raise UserError("\n".join(lines))
    return config


def dump_config(config: Config) -> str:
    """The resolved settings as YAML that `load_config` reads back to the same."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def differing_keys(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """`key: old → new` for what changed: what a resumed run must not change, and what it may."""
    before, after = (flatten(c.model_dump(mode="json")) for c in (old, new))
    measured = {"data.mean", "data.std"} if old.data.own_statistics else set()
    if not new.finetune.num_classes:
        measured.add("finetune.num_classes")
    decisive, free = [], []
    for key in dict.fromkeys([*before, *after]):
        if before.get(key) != after.get(key) and key not in measured:
            is_free = key in FREE_ON_RESUME or key.startswith("log.")
            (free if is_free else decisive).append(f"{key}: {before.get(key)} → {after.get(key)}")
    return decisive, free


def describe_settings() -> str:
    """All settings with default and meaning, for --help."""
    lines = []
    for key in ("output", "objective"):
        field = Config.model_fields[key]
        lines.append(f"{key} = {field.default!r}\n      {field.description}")
    for name, section in SECTIONS.items():
        lines += [f"{name}:  {section.__doc__}"]
        for key, field in section.model_fields.items():
            default = field.get_default(call_default_factory=True)
            lines.append(f"  {name}.{field.alias or key} = {default}\n      {field.description}")
    return "\n".join(lines)


def keys_of(section: type[Section]) -> list[str]:
    """As they are written in YAML."""
    return [field.alias or name for name, field in section.model_fields.items()]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


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
    return {k: {} if v is None and k in SECTIONS else v for k, v in values.items()}


def _merge(values: dict[str, Any], newer: Mapping[str, Any]) -> None:
    """Sections key by key; everything else is replaced."""
    for key, value in newer.items():
        own = values.get(key)
        if key in SECTIONS and isinstance(own, dict) and isinstance(value, Mapping):
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


def _source_of(location: str, source: Mapping[str, str]) -> str:
    for key, where in reversed(list(source.items())):
        if location == key or location.startswith(f"{key}.") or key.startswith(f"{location}."):
            return where
    return "defaults"


def _explain(error: Any) -> tuple[str, str]:
    """A pydantic error as (dotted key, message in plain words)."""
    keys = [str(part) for part in error["loc"]]
    section = SECTIONS.get(keys[0])
    if error["type"] == "extra_forbidden":
        known = keys_of(section if section and len(keys) > 1 else Config)
        close = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        return ".".join(keys), f"unknown key, {hint}"
    key = ".".join(keys[: 2 if section else 1])
    if key == "model.encoder_kwargs" and len(keys) > 2:
        key += f".{keys[2]}"
    if error["type"] == "model_type":
        return key, f"{error['input']!r} should be settings, each on a line below it"
    message = error["msg"]
    should_be = message.startswith("Input should be ")
    return key, f"{error['input']!r}{message[5:] if should_be else f': {message}'}"
