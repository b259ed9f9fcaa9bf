"""Fixtures shared with the tests of `mae bench`."""

from tests.commands.bench.conftest import (
    classifier,
    loader_manifest,
    loader_shards,
    short_shards,
    toy,
)

__all__ = ["classifier", "loader_manifest", "loader_shards", "short_shards", "toy"]
