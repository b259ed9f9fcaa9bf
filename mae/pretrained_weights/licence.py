"""Licence of weights, and whether it forbids commercial use."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from mae.base.errors import UserError
from mae.base.files import read_json, run_folder
from mae.config.loading import recorded_config
from mae.config.yaml_file import parse_yaml

FORBIDS_COMMERCE = re.compile(r"(?:^|[-_ ])nc(?:$|[-_ ])|non-?_?commercial", re.IGNORECASE)
PAPERS_RELEASE = re.compile(
    r"(?:^|[:/])facebook/[^/]*mae[^/]*$|(?:^|[:/])timm[:/][^/]*\.mae"
    r"|mae_(?:pretrain|visualize|finetuned?)_vit_\w+\.\w+$",
    re.IGNORECASE,
)
"""matches the names of the weights released by the paper's authors, and of copies of them"""

HIERA_RELEASE = re.compile(
    r"(?:^|[:/])facebook/hiera-"
    r"|(?:^|[:/])(?:mae_)?hiera_(?:tiny|small|base|base_plus|large|huge)_224\.\w+$",
    re.IGNORECASE,
)
"""matches the names of the files and repositories of Hiera's authors; the files declare none"""

DINOV3_RELEASE = re.compile(r"(?:^|[:/])facebook/dinov3-|dinov3_vit\w+_pretrain_\w+", re.IGNORECASE)
"""matches the names of the weights released by DINOv3's authors, whose files declare no licence"""
OWN_TERMS = "-license"
"""ending of the names of licences with terms of their own, such as dinov3-license"""


class Licence(NamedTuple):
    """Licence of some weights, as far as known."""

    name: str | None = None
    """name as declared, such as cc-by-nc-4.0; None: unknown"""
    non_commercial: bool = False
    """commercial use is forbidden"""
    from_scratch: bool = False
    """weights of a run that, through all earlier runs, used no weights of others"""


def named_licence(source: str, declared: str | None) -> Licence:
    """Licence of the weights called `source` that declare the licence `declared`.

    The paper's own weights, and Hiera's, are CC-BY-NC-4.0, whatever a copy of them declares.
    """
    if PAPERS_RELEASE.search(source) or HIERA_RELEASE.search(source):
        return Licence("cc-by-nc-4.0", non_commercial=True)
    if not declared and DINOV3_RELEASE.search(source):
        return Licence("dinov3-license")
    return Licence(declared, bool(declared and FORBIDS_COMMERCE.search(declared)))


def folder_licence(folder: Path, source: str, config: dict[str, Any] | None = None) -> Licence:
    """Licence of the weights in a run, an export or a model's folder.

    Read from its init.json, its `config` (timm's hub format), or its model card, which lies in
    the parent folder of an export's encoder/.
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
    found = named_licence(source if started_from is None else started_from, _text(declared))
    return found._replace(
        non_commercial=found.non_commercial or card.get("non_commercial") is True,
        from_scratch=started_from == "",
    )


def file_licence(file: Path, source: str) -> Licence:
    """Licence of a file of weights: of its folder or run, as `folder_licence`."""
    found = named_licence(source, None)
    for place in dict.fromkeys([file.absolute(), file.resolve()]):
        folder = run_folder(place.parent)
        if found == Licence():
            found = folder_licence(folder, source)
            # A file in a run's folder, outside its checkpoints, need not be the run's.
            found = found._replace(from_scratch=found.from_scratch and folder != place.parent)
    return found


def _started_from(folder: Path) -> str | None:
    """`init.from` of a run, "" where it started from scratch; None: not a run."""
    try:
        return recorded_config(folder).init.from_
    except UserError:
        return None


def _text(declared: Any) -> str | None:
    """Declared licence as text; a model card may declare several."""
    if isinstance(declared, list):
        return ", ".join(map(str, declared)) or None
    return str(declared) if declared else None


def _card(path: Path) -> dict[str, Any]:
    """Metadata block of a model card, between its first two lines of dashes."""
    try:
        before, metadata, _ = re.split(r"^---\s*$", path.read_text(), maxsplit=2, flags=re.M)
        content = parse_yaml(metadata.encode()) if not before.strip() else None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
