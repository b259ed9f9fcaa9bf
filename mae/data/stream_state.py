"""Saved state of a stream: its position, and what it is a position of."""

from collections.abc import Mapping
from typing import Any

from mae.base.errors import UserError
from mae.data.manifest import Manifest

FORMAT = 1
"""version of saved states"""
KEYS = ("format", "position", "data", "settings")


def stream_state(position: int, manifest: Manifest, settings: Mapping[str, Any]) -> dict[str, Any]:
    """State for JSON.  `settings`: those that samples and pixels depend on."""
    return {
        "format": FORMAT,
        "position": position,
        "data": manifest.fingerprint,
        "settings": dict(settings),
    }


def position_of(state: Any, manifest: Manifest, settings: Mapping[str, Any]) -> int:
    """Position of a saved state.

    Raises UserError where it is of other data or other settings, damaged, or no such state.
    """
    if not isinstance(state, Mapping) or any(key not in state for key in KEYS):
        raise UserError(f"load_state_dict: no state of a ShardStream: it has {', '.join(KEYS)}")
    if state["format"] != FORMAT:
        raise UserError(
            f"load_state_dict: a state of format {state['format']!r}; this version of mae reads "
            f"format {FORMAT}"
        )
    position, before = state["position"], state["settings"]
    if type(position) is not int or position < 0 or not isinstance(before, Mapping):
        raise UserError(f"load_state_dict: a damaged state: position {position!r}")
    if not manifest.is_recorded_as(str(state["data"])):
        raise UserError(
            f"load_state_dict: the state is of other data ({str(state['data'])[:12]}…) than these "
            f"shards ({manifest.fingerprint[:12]}…): give the shards it was saved with"
        )
    changed = [
        f"{name} {before.get(name)!r} → {settings.get(name)!r}"
        for name in dict.fromkeys([*before, *settings])
        if before.get(name) != settings.get(name)
    ]
    if changed:
        raise UserError(
            f"load_state_dict: the state was saved with other settings: {', '.join(changed)}"
        )
    return position
