"""Prefetching: remote shards of the next micro-batches, downloaded in the background."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress

import numpy as np

from mae.base.errors import UserError
from mae.data.manifest import Manifest
from mae.data.order import Order
from mae.data.shard_names import remote_shards
from mae.storage.background import BackgroundThreads
from mae.storage.cache import ShardCache
from mae.storage.remote import is_remote

DOWNLOADS = 4
"""number of remote shards fetched at a time, per process"""
MAX_AHEAD = 1000
"""maximum number of future micro-batches whose shards are fetched"""
REQUESTED = 1024
"""number of recently requested shards that are not requested again"""


def prefetch_shards(
    micro_batches: Iterable[range], manifest: Manifest, order: Order, cache: ShardCache, ahead: int
) -> Iterator[range]:
    """`micro_batches` unchanged, while the shards of the next `ahead` of them are downloaded.

    Errors are ignored here: the reader of the shard raises them again.
    """
    if not remote_shards(manifest.shards).any():
        yield from micro_batches
        return

    def fetch(shard: int) -> None:
        with suppress(UserError):
            cache.fetch(
                manifest.shards[shard],
                **manifest.identity(shard),
                # The processes of a machine need the same shards at the same time: each skips
                # those that another one is downloading, so they share the work.
                wait=False,
            )

    background = BackgroundThreads(DOWNLOADS, "fetch")
    requested: OrderedDict[int, None] = OrderedDict()
    upcoming: deque[range] = deque()
    try:
        for positions in micro_batches:
            samples = order(np.asarray(positions)).sample
            for shard in np.unique(manifest.shard_of(samples)).tolist():
                if shard not in requested and is_remote(manifest.shards[shard]):
                    background.submit(fetch, shard)
                    requested[shard] = None
            while len(requested) > REQUESTED:
                requested.popitem(last=False)  # perhaps evicted by now: fetched again if needed
            upcoming.append(positions)
            if len(upcoming) > ahead:
                yield upcoming.popleft()
        yield from upcoming
    finally:
        background.close()
