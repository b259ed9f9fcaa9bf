"""Remote shards among those of manifest files, lists and mixtures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae.data.columns import Blobs, Joined
from mae.data.shard_names import ShardNames, remote_shards
from mae.storage.remote import is_remote

LOCAL = ["a.tar", "sub/b.tar", "with:colon.tar", "../c.tar", "odd\udcff.tar"]
REMOTE = ["https://host/a.tar", "s3://bucket/b.tar", "gs://b/c.tar"]
MANIFESTS = ["folder/all.safetensors", "all.safetensors", "https://host/set/all.safetensors?sig=1"]


def shard_names(names, manifest):
    """Names as they lie in a manifest file."""
    encoded = [name.encode("utf-8", "surrogateescape") for name in names]
    content = np.frombuffer(b"".join(encoded), np.uint8)
    return ShardNames(Blobs(content, np.cumsum([0, *map(len, encoded)])), manifest)


@given(
    names=st.lists(st.sampled_from(LOCAL + REMOTE), min_size=1, max_size=5),
    manifest=st.sampled_from(MANIFESTS),
)
def test_the_remote_shards_are_those_with_an_address(names, manifest):
    shards = shard_names(names, manifest)
    expected = [is_remote(shard) for shard in shards]
    assert remote_shards(shards).tolist() == expected
    assert remote_shards(Joined([shards, tuple(names), shards])).tolist() == [
        *expected,
        *map(is_remote, names),
        *expected,
    ]


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_a_million_names_are_not_read_one_by_one(manifest, monkeypatch):
    shards = shard_names(["a.tar"] * 3, manifest)
    monkeypatch.setattr(Blobs, "__getitem__", None)
    monkeypatch.setattr(ShardNames, "__getitem__", None)
    assert remote_shards(shards).tolist() == [is_remote(manifest)] * 3
