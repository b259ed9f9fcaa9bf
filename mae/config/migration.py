"""Migration of settings written by earlier versions."""

from typing import Any

from mae.base.errors import UserError
from mae.config.sections import LogConfig, sections
from mae.config.types import keys_of
from mae.objectives.registry import DEFAULT, OBJECTIVES, config_type, declaration

RENAMED_KEYS = {"model.img_size": "data.img_size", "model.in_chans": "data.in_chans"}
"""old key → new key; objectives declare further ones"""


def renamed_keys() -> dict[str, str]:
    """Old key → new key, of the core and all objectives."""
    return RENAMED_KEYS | {
        old: new for name in OBJECTIVES for old, new in declaration(name).renamed_keys.items()
    }


def rename_old_keys(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Rename the keys of earlier versions in nested `values`; `where` is their source, for errors.

    Raises UserError where a setting is given under both of its names.
    """
    for old, new in renamed_keys().items():
        (section, key), (new_section, new_key) = old.split("."), new.split(".")
        before = values.get(section)
        if not isinstance(before, dict) or key not in before:
            continue
        after = values.get(new_section, {})
        if not isinstance(after, dict):
            continue  # no section: reported when the values are validated
        if new_key in after:
            raise UserError(f"{where}: {old}: is now {new}, which is given too: remove one")
        values = {
            **values,
            section: {name: value for name, value in before.items() if name != key},
            new_section: {**after, new_key: before[key]},
        }
    return values


SWITCHES = ("wandb", "tensorboard")
"""former settings of `log`, true or false, each now a name in log.trackers"""


OFFLINE = "wandb-offline"
"""tracker that log.wandb turns off, too"""


def fold_switches(values: dict[str, Any]) -> dict[str, Any]:
    """Nested settings with log.wandb and log.tensorboard, if given, as names in log.trackers.

    Each adds its name to the trackers that are given, or are the default, or removes it; wandb
    also replaces, or removes, wandb-offline.
    """
    log = values.get("log")
    given = {} if not isinstance(log, dict) else log
    switches = {key: given[key] for key in SWITCHES if isinstance(given.get(key), bool)}
    if not switches:
        return values
    names = given.get("trackers", LogConfig().trackers)
    names = [names] if isinstance(names, str) else list(names or ())
    for name, is_on in switches.items():
        same = OFFLINE if name == "wandb" else name
        names = [one for one in names if one not in (name, same)] + [name] * is_on
    rest = {key: value for key, value in given.items() if key not in switches}
    return {**values, "log": {**rest, "trackers": names}}


def is_recorded_config(values: dict[str, Any]) -> bool:
    """True for a run's recorded config.yaml, which has every section; hand-written files do not."""
    return {"data", "model", "init", "optim", "train", "guard", "log"} <= values.keys()


def migrate_settings(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Convert the recorded settings of an earlier version's run to today's layout.

    Earlier versions recorded the sections and model keys of all objectives; only those of the
    run's own objective are kept.
    """
    model = values.get("model")
    if not isinstance(model, dict) or "img_size" not in model:
        return values
    values = rename_old_keys(values, where)
    known = config_type(str(values.get("objective", DEFAULT)))
    own = keys_of(sections(known)["model"])
    values["model"] = {key: value for key, value in values["model"].items() if key in own}
    return {key: value for key, value in values.items() if key in known.model_fields}
