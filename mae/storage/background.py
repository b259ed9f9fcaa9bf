"""Pool of daemon threads.

They are not joined at exit as those of `concurrent.futures` are: one slow download would delay the
end of a failed or interrupted process by minutes.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from queue import Queue
from typing import Any, Self, TypeVar

A = TypeVar("A")
T = TypeVar("T")


class BackgroundThreads:
    """Pool of `count` daemon threads that run submitted calls in order of submission."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._closed = False
        self._waiting: Queue[Callable[[], None] | None] = Queue()
        for number in range(count):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    def submit(self, call: Callable[..., T], *arguments: Any) -> "Future[T]":
        """Queue `call(*arguments)`; the future holds its result or error."""
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

    def in_order(self, call: Callable[[A], T], items: Iterable[A], ahead: int) -> Iterator[T]:
        """Results of `call` on each item, in order; at most `ahead` are computed ahead."""
        upcoming = iter(items)
        waiting = deque(self.submit(call, item) for item in islice(upcoming, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(self.submit(call, item) for item in islice(upcoming, 1))
            yield result

    def close(self) -> None:
        """Drop all queued calls and return at once; running calls end on their own or at exit."""
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
