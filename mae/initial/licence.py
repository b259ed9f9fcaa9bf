"""Under which licence weights come, and whether it forbids commercial use."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

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


def licence_of(source: str, declared: str | None) -> Licence:
    """The licence of weights of this name that declare this one.

    The paper's own weights are CC-BY-NC-4.0 whatever a copy of them declares.
    """
    if PAPERS_RELEASE.search(source):
        return Licence("cc-by-nc-4.0", non_commercial=True)
    return Licence(declared, bool(declared and FORBIDS_COMMERCE.search(declared)))


def licence_in(folder: Path, source: str, config: dict[str, Any] | None = None) -> Licence:
    """What a run, an export or a model's folder says of the weights that went into it.

    In its init.json, in its `config` (the hub format of timm), or in its model card.
    """
    recorded = _json(folder / "init.json")
    if "non_commercial" in recorded:
        declared = recorded.get("license")
        return Licence(_text(declared), bool(recorded["non_commercial"]))
    config = config or {}
    pretrained = config.get("pretrained_cfg")
    declared = pretrained.get("license") if isinstance(pretrained, dict) else None
    return licence_of(source, _text(declared) or _text(_card(folder / "README.md").get("license")))


def _text(declared: Any) -> str | None:
    """A model card may declare several."""
    if isinstance(declared, list):
        return ", ".join(map(str, declared)) or None
    return str(declared) if declared else None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _card(path: Path) -> dict[str, Any]:
    """The metadata between the two lines of dashes that a model card begins with."""
    try:
        before, metadata, _ = re.split(r"^---\s*$", path.read_text(), maxsplit=2, flags=re.M)
        content = yaml.safe_load(metadata) if not before.strip() else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
