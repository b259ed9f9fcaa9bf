"""Remote shards fetched before they are wanted."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress

import numpy as np

from mae.base.errors import UserError
from mae.data.manifest import Manifest
from mae.data.order import Order
from mae.remote.background import BackgroundThreads
from mae.remote.cache import ShardCache
from mae.remote.files import is_remote

DOWNLOADS = 4
REMEMBERED = 1024


def fetching_ahead(
    micro_batches: Iterable[range], manifest: Manifest, order: Order, cache: ShardCache, ahead: int
) -> Iterator[range]:
    """`micro_batches` unchanged, while the shards of the next `ahead` of them are downloaded.

    A failure here is no failure: whoever needs the shard meets it again, and tells.
    """
    if not any(map(is_remote, manifest.shards)):
        yield from micro_batches
        return

    def fetch(shard: int) -> None:
        with suppress(UserError):
            cache.fetch(
                manifest.shards[shard],
                size=manifest.shard_bytes[shard],
                sha256=manifest.sha256[shard],
                # The processes of a machine want the same shards at the same time: each turns to
                # one that nobody is bringing, and so they share the work.
                wait=False,
            )

    background = BackgroundThreads(DOWNLOADS, "fetch")
    asked: OrderedDict[int, None] = OrderedDict()
    upcoming: deque[range] = deque()
    try:
        for positions in micro_batches:
            samples = order(np.arange(positions.start, positions.stop)).sample
            for shard in np.unique(manifest.shard[samples]).tolist():
                if shard not in asked and is_remote(manifest.shards[shard]):
                    background.submit(fetch, shard)
                    asked[shard] = None
            while len(asked) > REMEMBERED:
                asked.popitem(last=False)  # evicted by now, perhaps, and to be asked for again
            upcoming.append(positions)
            if len(upcoming) > ahead:
                yield upcoming.popleft()
        yield from upcoming
    finally:
        background.close()
