"""Call of a training as text, recorded in place of a command: as a program or notebook made it."""

import os
from collections.abc import Mapping
from typing import Any

from mae.api.settings import plain
from mae.base.redaction import without_secrets

CONTENT = "{…}"
"""stands for a recipe that was given as its content, which config.yaml has"""


def call_text(function: str, source: Any, settings: Mapping[str, Any]) -> str:
    """`mae.train('tiles.yaml', data='shards/*.tar', train={'epochs': 5})`, without secrets.

    `source`: recipe or run.  Settings that are None are left out.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    words = [_shown(source) if isinstance(source, str | os.PathLike) else CONTENT]
    words += [f"{key}={_shown(value)}" for key, value in given.items() if key.isidentifier()]
    dotted = {key: plain(value) for key, value in given.items() if not key.isidentifier()}
    words += [f"**{_shown(dotted)}"] if dotted else []
    return f"mae.{function}({', '.join(words)})"


def _shown(value: Any) -> str:
    return repr(without_secrets(plain(value)))
