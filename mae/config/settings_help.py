"""Help text of the settings: default and meaning of each, by objective."""

import textwrap
from collections.abc import Mapping

from mae.config.sections import Config, sections
from mae.config.types import Section, flatten
from mae.objectives.declaration import Declaration
from mae.objectives.registry import declarations

FEWEST_COMMON = 5
"""number of settings in common with another objective, from which help names that one instead"""

HELP_WIDTH = 96
"""characters in a line of such names"""

OFTEN = {
    "mae pretrain": {
        "data.train=photos": "images: a folder, flat or nested, or shards",
        "output=runs/photos": "folder of the run; the same command goes on where it stopped",
        "auto.hours=4": "with auto: hours of training to plan for",
        "train.epochs=100": "passes over the images",
        "data.val_share=0.1": "share of a folder that is held out; or data.val=…, another folder",
        "train.batch_size=64": "images per step",
        "init.from=runs/other": "start from these weights",
        "data.own_statistics=true": "normalise by your images, not ImageNet; data.in_chans=1: grey",
        "log.trackers=[]": "no files for trackers; tensorboard, or wandb, which uploads",
    },
    "mae finetune": {
        "data.train=labelled/train": "labelled images: a folder for each class, or shards",
        "data.val=labelled/test": "held-out ones; data.val_share=0.2 holds out some of a folder",
        "output=runs/classes": "folder of the run; the same command goes on where it stopped",
        "train.epochs=50": "passes over the images",
        "optim.lr=5e-4": "peak learning rate",
        "init.from=none": "from scratch, for comparison",
    },
}
"""settings that are typed most often, by command: as typed, and what they are"""


def often_typed(command: str) -> str:
    """Help text for the end, where a terminal stops: the settings that are typed most often."""
    rows = OFTEN[command]
    width = max(map(len, rows))
    shown = "\n".join(f"  {typed:{width}}  {meaning}" for typed, meaning in rows.items())
    return f"\n\nmost often typed (all settings are above):\n\n{shown}"


def describe_settings(command: str) -> str:
    """Help text: default and meaning of every setting of the objectives that `command` trains."""
    lines = []
    known = declarations(command)
    for key in ("output", "objective"):
        field = Config.model_fields[key]
        lines.append(f"{key} = {field.default!r}\n      {field.description}")
    lines += [f"      {declared.name}: {declared.summary}" for declared in known]
    for name, section in sections(Config).items():
        if name != "model":
            lines += _describe_section(name, section)
    described: dict[str, list[str]] = {}
    for declared in known:
        settings = _describe_objective(declared)
        lines += [f"settings of objective: {declared.name}", *_without_known(settings, described)]
        described[declared.name] = settings
    return "\n".join(lines)


def _without_known(settings: list[str], described: Mapping[str, list[str]]) -> list[str]:
    """`settings` without those of the most similar objective described before, which it names."""
    common = {
        name: [line for line in settings if line.startswith(" ") and line in before]
        for name, before in described.items()
    }
    like = max(common, key=lambda name: len(common[name]), default="")
    if not like or len(common[like]) < FEWEST_COMMON:
        return settings
    keys = [line.split()[0] for line in common[like]]
    same = textwrap.wrap(f"as for {like}: {', '.join(keys)}", HELP_WIDTH)
    return ["  " + "\n    ".join(same), *(line for line in settings if line not in common[like])]


def _describe_objective(declared: Declaration) -> list[str]:
    lines = _describe_section("model", declared.model)
    lines += [
        f"  {key} = {value}\n      default of this objective"
        for key, value in flatten(declared.defaults).items()
    ]
    return lines + (_describe_section(*declared.section) if declared.section else [])


def _describe_section(name: str, section: type[Section]) -> list[str]:
    lines = [f"{name}:  {section.__doc__}"]
    for key, field in section.model_fields.items():
        default = field.get_default(call_default_factory=True)
        lines.append(f"  {name}.{field.alias or key} = {default}\n      {field.description}")
    return lines
