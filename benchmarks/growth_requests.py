"""Requests to a server, and the cost of a cache with many copies, for `benchmarks.growth`."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.manifest import write_shard
from mae.data.indexing import build_manifest, write_index
from mae.storage.cache import ShardCache

SHARDS = 1500
"""shards on the server whose requests are counted"""
FETCHED = 10
"""shards that are fetched into a full cache"""
COPIES = (100, 1_000, 10_000)
"""copies in a full cache"""
Row = dict[str, Any]


def measure_requests(data: Path, folder: Path) -> Iterator[Row]:
    """Requests of a process that opens SHARDS shards on a server: at its first start and later."""
    del data
    served = folder / "served"
    served.mkdir()
    write_shard(folder, samples=1).rename(served / "0000.tar")
    for number in range(1, SHARDS):
        (served / f"{number:04d}.tar").hardlink_to(served / "0000.tar")
    write_index([f"{served}/*.tar"], served / "all.safetensors", "index", folder / "local")
    names = {"manifest": "all.safetensors", "shards": f"{{0000..{SHARDS - 1:04d}}}.tar"}
    with server(served) as (url, requests):
        for listed, name in names.items():
            cache = ShardCache(folder / f"cache-{listed}", 10**9)
            for start in ("first", "later"):
                requests.clear()
                build_manifest([f"{url}/{name}"], "data.train", folder / f"index-{listed}", cache)
                yield {"listed": listed, "start": start, "shards": SHARDS} | {
                    "requests": len(requests)
                }


def measure_cache(data: Path, folder: Path) -> Iterator[Row]:
    """CPU time of fetching a small shard into a full cache, which finds and deletes the oldest."""
    del data
    served = folder / "served"
    served.mkdir()
    shard = write_shard(folder, samples=1)
    size = shard.stat().st_size
    for number in range(FETCHED):
        content = bytearray(shard.read_bytes())
        content[-1] = number
        (served / f"{number}.tar").write_bytes(content)
    with server(served) as (url, _):
        for copies in COPIES:
            cache = ShardCache(folder / f"cache-{copies}", copies * size)
            cache.folder.mkdir()
            for number in range(copies):
                copy = cache.folder / f"{number:064x}-{size}.tar"
                copy.touch()
                os.truncate(copy, size)
                (cache.folder / f"{number:064x}.ref").symlink_to(copy.name)
            start = time.process_time()
            for number in range(FETCHED):
                cache.fetch(f"{url}/{number}.tar", size)
            seconds = (time.process_time() - start) / FETCHED
            yield {"copies": copies, "cpu_ms_per_shard": round(1e3 * seconds, 1)}


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Address of a web server on loopback, and the list that its requests are added to."""
    requests: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

        def parse_request(self) -> bool:
            is_read = super().parse_request()
            requests.append(f"{self.command} {self.path}")
            return is_read

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as web:
        web.daemon_threads = True
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_address[1]}", requests
        web.shutdown()
