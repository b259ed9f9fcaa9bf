"""Masked Autoencoder pretraining of Vision Transformers (He et al. 2021, arXiv:2111.06377)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mae.data.shard_stream import ShardStream

__all__ = ["ShardStream"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a public name when it is used: `import mae` itself is light."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mae.data.shard_stream import ShardStream

    return ShardStream
