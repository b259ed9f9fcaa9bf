"""Origin of a table: what `mae embed` recorded on its model, its map and their agreement."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from mae.base.redaction import shown
from mae.explore.finite import count, share
from mae.explore.structure import Trust

KEY = "mae"
"""of the metadata of the file"""
METHODS = {"tsne": "t-SNE", "umap": "UMAP", "pca": "two principal components"}


class Origin(NamedTuple):
    """Origin of a table, as far as it is recorded."""

    vectors: str = ""
    """model and feature"""
    projection: str = ""
    """method that made the map"""
    trust: Trust | None = None


def read_origin(metadata: Mapping[str, str]) -> Origin:
    """Origin from the metadata of a file; empty where others wrote it."""
    try:
        content = json.loads(metadata.get(KEY, "{}"))
    except (ValueError, RecursionError):
        return Origin()
    if not isinstance(content, dict):
        return Origin()
    method = content.get("projection")
    method = method if isinstance(method, str) else ""
    return Origin(_vectors(content), shown(METHODS.get(method, method)), _trust(content, method))


def _vectors(content: Mapping[str, Any]) -> str:
    model, feature = content.get("model"), content.get("feature")
    if not isinstance(model, str):
        return ""
    known = feature if isinstance(feature, str) and feature != model else ""
    return shown(f"{model}, {known}" if known else model)


def _trust(content: Mapping[str, Any], method: str) -> Trust | None:
    """Recorded trustworthiness of the map, and of the plain one; None where it is none."""
    try:
        figures = content["figures"]
        own, plain = (share(figures["map"][name]["trustworthiness"]) for name in (method, "pca"))
        k, compared = count(figures["k"]), count(figures["compared"])
    except (KeyError, TypeError):
        return None
    if own is None or plain is None or k is None or compared is None:
        return None
    return Trust(k, own, plain, compared)
