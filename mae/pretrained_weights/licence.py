"""Under which licence weights come, and whether it forbids commercial use."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mae.base.errors import UserError
from mae.base.files import read_json, run_folder
from mae.config.loading import recorded_config

FORBIDS_COMMERCE = re.compile(r"(?:^|[-_ ])nc(?:$|[-_ ])|non-?_?commercial", re.IGNORECASE)
PAPERS_RELEASE = re.compile(
    r"(?:^|[:/])facebook/[^/]*mae[^/]*$|(?:^|[:/])timm[:/][^/]*\.mae"
    r"|mae_(?:pretrain|visualize|finetuned?)_vit_\w+\.\w+$",
    re.IGNORECASE,
)
"""names of the weights that the paper's authors released, and of copies of them"""


class Licence(NamedTuple):
    """What is known of it."""

    name: str | None = None
    """as declared, such as cc-by-nc-4.0; None: nobody says"""
    non_commercial: bool = False
    from_scratch: bool = False
    """of a run of our own into which, as far back as it goes, nobody else's weights went"""


def licence_of(source: str, declared: str | None) -> Licence:
    """The licence of weights of this name that declare this one.

    The paper's own weights are CC-BY-NC-4.0 whatever a copy of them declares.
    """
    if PAPERS_RELEASE.search(source):
        return Licence("cc-by-nc-4.0", non_commercial=True)
    return Licence(declared, bool(declared and FORBIDS_COMMERCE.search(declared)))


def licence_in(folder: Path, source: str, config: dict[str, Any] | None = None) -> Licence:
    """What a run, an export or a model's folder says of the weights that went into it.

    In its init.json, in its `config` (the hub format of timm), or in its model card: that of an
    export lies above its encoder/.
    """
    recorded = read_json(folder / "init.json")
    if "non_commercial" in recorded:
        declared, from_scratch = recorded.get("license"), recorded.get("from_scratch") is True
        return Licence(_text(declared), bool(recorded["non_commercial"]), from_scratch)
    started_from = _started_from(folder)
    card = _card(folder / "README.md")
    if not card and folder.name == "encoder":
        card = _card(folder.parent / "README.md")
    pretrained = (config or {}).get("pretrained_cfg")
    declared = pretrained.get("license") if isinstance(pretrained, dict) else None
    declared = declared or (card.get("license") != "other" and card.get("license"))
    declared = declared or card.get("license_name") or card.get("license")
    found = licence_of(source if started_from is None else started_from, _text(declared))
    return found._replace(
        non_commercial=found.non_commercial or card.get("non_commercial") is True,
        from_scratch=started_from == "",
    )


def licence_beside(file: Path, source: str) -> Licence:
    """Of a file alone, or a checkpoint's: what lies beside it or its run says, as `licence_in`."""
    found = licence_of(source, None)
    for place in dict.fromkeys([file.absolute(), file.resolve()]):
        folder = run_folder(place.parent)
        if found == Licence():
            found = licence_in(folder, source)
            # What merely lies in a run's folder is not the run's.
            found = found._replace(from_scratch=found.from_scratch and folder != place.parent)
    return found


def _started_from(folder: Path) -> str | None:
    """A run's init.from, empty where it started from scratch; None: no run."""
    try:
        return recorded_config(folder).init.from_
    except UserError:
        return None


def _text(declared: Any) -> str | None:
    """A model card may declare several."""
    if isinstance(declared, list):
        return ", ".join(map(str, declared)) or None
    return str(declared) if declared else None


def _card(path: Path) -> dict[str, Any]:
    """The metadata between the two lines of dashes that a model card begins with."""
    try:
        before, metadata, _ = re.split(r"^---\s*$", path.read_text(), maxsplit=2, flags=re.M)
        content = yaml.safe_load(metadata) if not before.strip() else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
