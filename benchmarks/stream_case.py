"""Measurements of one stream: `python -m benchmarks.stream_case IMPLEMENTATION`.

Started by `benchmarks.shard_streams`, in an interpreter that has the packages.  Reads tasks from
standard input, a line of JSON each, and answers each with a line.  A task runs in processes of its
own, one for each rank, which inherit the imported packages: they take longer than the tasks.
"""

import importlib
import itertools
import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.stream_peers import (
    STREAMS,
    Stream,
    load_state,
    prepare_energon,
    save_state,
    write_mds,
)

LIMIT = 240
"""seconds of a task"""


def opened(name: str, folder: str, workers: int = 0, is_decoded: bool = False) -> Stream:
    """The stream of this process's rank."""
    return STREAMS[name](Path(folder), workers, is_decoded)


def rate(name: str, folder: str, count: int, is_decoded: bool) -> dict[str, float]:
    """Samples a CPU second in this process, from opening on, and the most memory added."""
    process, start, got, most = psutil.Process(), time.process_time(), 0, 0
    before = process.memory_full_info().uss
    for _ in itertools.islice(opened(name, folder, is_decoded=is_decoded), count):
        got += 1
        if got % 500 == 0:
            most = max(most, process.memory_full_info().uss - before)
    seconds = time.process_time() - start
    return {"rate": got / seconds, "memory_mb": most / 1e6, "samples": got}


def keys(
    name: str, folder: str, workers: int, count: int | None = None, save: str = "", load: str = ""
) -> dict[str, Any]:
    """Keys of the next `count` samples of this rank (None: to the end of the epoch)."""
    stream, rank = opened(name, folder, workers), os.environ["RANK"]
    if load:
        own = Path(f"{load}-{rank}")
        stream.load(load_state(own if own.exists() else Path(f"{load}-0")))
    found = [sample.key for sample in itertools.islice(stream, count)]
    if save:
        save_state(stream.state(), Path(f"{save}-{rank}"))
    return {"keys": found}


def resume(name: str, folder: str, load: str) -> dict[str, float]:
    """Seconds to the first sample after a saved state, without imports."""
    start, wall = time.process_time(), time.perf_counter()
    stream = opened(name, folder)
    stream.load(load_state(Path(f"{load}-0")))
    next(iter(stream))
    return {"cpu_s": time.process_time() - start, "wall_s": time.perf_counter() - wall}


def damaged(name: str, folder: str, count: int) -> dict[str, Any]:
    """Keys of an epoch with a damaged sample, decoded, up to the error that ends it."""
    stream, found = opened(name, folder, is_decoded=True), []
    try:
        for sample in itertools.islice(stream, count):
            found.append(sample.key)
    except Exception as error:
        return {"keys": found, "error": described(error)}
    return {"keys": found, "error": ""}


def prepare(name: str, folder: str) -> dict[str, str]:
    """Write what this implementation needs beside the tars."""
    if name == "energon":
        prepare_energon(Path(folder))
    elif name == "streaming":
        write_mds(Path(folder))
    else:
        next(iter(opened(name, folder)))
    return {}


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    one.__name__: one for one in (rate, keys, resume, damaged, prepare)
}


def described(error: BaseException) -> str:
    """An error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def run_rank(out: Any, rank: int, world: int, port: int, name: str, task: str, how: dict) -> None:
    """One rank of a task; its result goes to the pipe `out`."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port)}
    os.dup2(2, 1)  # what libraries print is no result
    try:
        out.send(TASKS[task](name, **how))
    except BaseException as error:
        out.send({"error": described(error)})


def run_task(name: str, task: str, ranks: int, how: dict[str, Any]) -> list[dict[str, Any]]:
    """Results of all ranks of a task."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    running = []
    for rank in range(ranks):
        received, sent = context.Pipe(duplex=False)
        process = context.Process(
            target=run_rank, args=(sent, rank, ranks, port, name, task, how), daemon=False
        )
        process.start()
        sent.close()
        running.append((process, received))
    results, end = [], time.monotonic() + LIMIT
    for process, received in running:
        has_come = received.poll(max(0.0, end - time.monotonic()))
        try:
            results.append(received.recv() if has_come else {"error": f"none in {LIMIT} s"})
        except EOFError:
            results.append({"error": "the process died"})
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()
    return results


def main() -> None:
    """Answer the tasks of standard input."""
    name = sys.argv[1]
    try:
        for package in ("torch", "torchvision", "PIL.Image", *STREAMS[name].packages):
            importlib.import_module(package)
        torch = sys.modules["torch"]
        torch.set_num_threads(1)
        print(json.dumps({"ready": True}), flush=True)
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": error.name}), flush=True)
        return
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(run_task(name, **asked)), flush=True)


if __name__ == "__main__":
    main()
