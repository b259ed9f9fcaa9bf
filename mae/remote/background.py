"""Threads for waiting on servers, which the interpreter does not wait for when it ends.

`concurrent.futures` joins its threads at exit: one slow download would hold a process that was
interrupted, or has failed, for minutes.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Queue
from typing import Any, Self, TypeVar

T = TypeVar("T")


class BackgroundThreads:
    """`count` daemon threads that do what is submitted, the oldest first."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._closed = False
        self._waiting: Queue[Callable[[], None] | None] = Queue()
        for number in range(count):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    def submit(self, call: Callable[..., T], *arguments: Any) -> "Future[T]":
        """What `call(*arguments)` will return or raise."""
        future: Future[T] = Future()

        def work() -> None:
            try:
                result = call(*arguments)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._waiting.put(work)
        return future

    def close(self) -> None:
        """Begin nothing more, and wait for nothing: what runs ends by itself, or with us."""
        self._closed = True
        for _ in range(self._count):
            self._waiting.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        while (work := self._waiting.get()) is not None:
            if not self._closed:
                work()
