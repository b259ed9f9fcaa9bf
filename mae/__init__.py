"""Masked Autoencoder pretraining of Vision Transformers (He et al. 2021, arXiv:2111.06377).

The Python interface, by example: docs/PYTHON.md.  `import mae` is light; torch is imported when a
name needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mae.api.encoder import Encoder, load
    from mae.api.run import Run
    from mae.api.training import build, train, train_classifier
    from mae.base.errors import RunFailed, Stopped, UserError
    from mae.data.shard_stream import ShardStream

__all__ = [
    "Encoder",
    "Run",
    "RunFailed",
    "ShardStream",
    "Stopped",
    "UserError",
    "build",
    "load",
    "train",
    "train_classifier",
]
__version__ = "0.1.0"

_MODULES = {
    "mae.api.encoder": ("Encoder", "load"),
    "mae.api.run": ("Run",),
    "mae.api.training": ("build", "train", "train_classifier"),
    "mae.base.errors": ("RunFailed", "Stopped", "UserError"),
    "mae.data.shard_stream": ("ShardStream",),
}
"""module → its public names"""


def __getattr__(name: str) -> Any:
    """Import a public name when it is used: `import mae` itself is light."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
