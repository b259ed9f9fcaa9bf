"""Settings as earlier versions wrote them, read as those of today."""

from typing import Any

from mae.base.errors import UserError
from mae.config.sections import sections
from mae.config.types import keys_of
from mae.objectives.registry import DEFAULT, OBJECTIVES, config_type, declaration

MOVED = {"model.img_size": "data.img_size", "model.in_chans": "data.in_chans"}
"""keys of earlier versions, which are read as these; objectives declare further ones"""


def moved_keys() -> dict[str, str]:
    """Keys of earlier versions, and those of today."""
    return MOVED | {
        old: new for name in OBJECTIVES for old, new in declaration(name).renamed_keys.items()
    }


def with_new_names(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Nested `values` with the keys of earlier versions renamed.

    UserError where a setting is given under both of its names.
    """
    for old, new in moved_keys().items():
        (section, key), (new_section, new_key) = old.split("."), new.split(".")
        before = values.get(section)
        if not isinstance(before, dict) or key not in before:
            continue
        after = values.get(new_section, {})
        if not isinstance(after, dict):
            continue  # a mistake, which is reported when values are checked
        if new_key in after:
            raise UserError(f"{where}: {old}: is {new} now, which is given too: remove one")
        values = {
            **values,
            section: {name: value for name, value in before.items() if name != key},
            new_section: {**after, new_key: before[key]},
        }
    return values


def is_recorded(values: dict[str, Any]) -> bool:
    """True for the config.yaml of a run, which has every section; nobody writes them all."""
    return {"data", "model", "init", "optim", "train", "guard", "log"} <= values.keys()


def of_an_earlier_version(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Settings in today's layout, as a run of an earlier version recorded them.

    Runs once recorded the sections of all objectives, whatever theirs was.
    """
    model = values.get("model")
    if not isinstance(model, dict) or "img_size" not in model:
        return values
    values = with_new_names(values, where)
    known = config_type(str(values.get("objective", DEFAULT)))
    own = keys_of(sections(known)["model"])
    values["model"] = {key: value for key, value in values["model"].items() if key in own}
    return {key: value for key, value in values.items() if key in known.model_fields}
