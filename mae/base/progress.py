"""Progress on standard error, in one style for all work over two seconds; format of durations.

On a terminal one line is updated in place: done and total, speed, remaining time; where the length
is not known, the time so far.  Elsewhere a line is printed every ten seconds.  Short work shows
nothing.
"""

import importlib.machinery
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType, TracebackType
from typing import Any, Self

from mae.base import live_line
from mae.base.output import print_error, silent

Log = Callable[[str], None]
"""prints a line"""
Progress = Callable[[int, int], None]
"""called with (done, total)"""
APPEARS = 1.5
"""seconds after which work is shown on a terminal"""
LEAST = 0.4
"""the same where nothing was shown for APPEARS before"""
EVERY = 10.0
"""seconds between two lines elsewhere"""
REDRAWN = 0.2
"""seconds between two updates on a terminal"""
TICK = 0.5
"""seconds between two updates of a work that counts nothing meanwhile"""
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "diffusers", "wandb", "mlflow")
"""packages whose import takes seconds"""
UNUSED = {"timm": ("wandb",)}
"""library → those that it imports where they are installed, for parts that nothing here uses"""


def no_progress(done: int, total: int) -> None:
    """Report nothing."""


class ShownWork:
    """Work that is shown as long as it takes; as a context it is also shown between two counts."""

    entered: list["ShownWork"] = []
    """contexts that are open, of which the last one is shown"""
    printed_at = -EVERY
    """time of the last line that was printed elsewhere than on a terminal"""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.start = self.shown_at = time.monotonic()
        self.is_shown = False
        self.shown_text = ""
        """the last line that was printed elsewhere"""
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def text(self, seconds: float) -> str:
        """Line after so many seconds; empty: nothing is known yet."""
        raise NotImplementedError

    @property
    def is_hidden(self) -> bool:
        """True where the caller, or another process, shows it."""
        is_other = os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"
        return is_other or self.log is silent

    def show(self, *, is_tick: bool = False, is_last: bool = False) -> None:
        """Draw or print the line if that is due; `is_last`: and leave it there."""
        now = time.monotonic()
        if self.is_hidden or not (text := self.text(now - self.start)):
            return
        if sys.stderr.isatty():
            is_free = not is_tick or live_line.is_free_for(self, APPEARS)
            is_due = is_last or now - self.shown_at >= REDRAWN
            if is_due and is_free and self._is_long(now):
                live_line.draw(sys.stderr, text, self)
                self.shown_at, self.is_shown = now, True
            if is_last and now - self.start >= APPEARS:
                live_line.end()
            elif is_last and self.is_shown:
                live_line.clear()
        elif (
            self.is_shown and now - self.start >= EVERY if is_last else self._is_line_due(now)
        ) and text != self.shown_text:
            self.shown_at = ShownWork.printed_at = now
            self.is_shown, self.shown_text = True, text
            self.log(text)

    def _is_long(self, now: float) -> bool:
        """True for work to show on a terminal: after a while, or where nothing else was shown."""
        quiet = now - (live_line.quiet_since() or now)
        seconds = now - self.start
        return self.is_shown or seconds >= APPEARS or (quiet >= APPEARS and seconds >= LEAST)

    def _is_line_due(self, now: float) -> bool:
        """True after EVERY seconds without a line; within a command without any output at all."""
        quiet_since = live_line.quiet_since()
        if quiet_since is None:
            quiet_since = max(self.shown_at, ShownWork.printed_at)
        return now - quiet_since >= EVERY and now - self.start >= APPEARS

    def __enter__(self) -> Self:
        if not self.is_hidden:
            ShownWork.entered.append(self)
            self._over.clear()
            self._thread = threading.Thread(target=self._tick, daemon=True, name="progress")
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._over.set()
            self._thread.join()
            self._thread = None
            ShownWork.entered.remove(self)

    def _tick(self) -> None:
        while not self._over.wait(TICK):
            if ShownWork.entered[-1:] == [self]:
                self.show(is_tick=True)


class ProgressLine(ShownWork):
    """Line "`doing`: 3/10 `things`  2 things/s  ETA 0:04" of work whose parts are counted."""

    def __init__(self, doing: str, things: str, log: Log = print_error) -> None:
        """`log` prints the lines where standard error is no terminal."""
        super().__init__(log)
        self.doing, self.things = doing, things
        self.first: int | None = None
        """what was done at the start"""
        self.done = self.total = 0
        self.note = ""
        self.is_over = False

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show what is done and all, followed by `note`."""
        if self.first is None or done < self.done:
            self.first, self.start, self.is_over = done, time.monotonic(), False
        self.done, self.total, self.note = done, total, note
        if not self.is_over:
            self.is_over = done >= total
            self.show(is_last=self.is_over)

    def text(self, seconds: float) -> str:
        """Done, total, note, speed, and the remaining time, or at the end all of it."""
        if self.first is None:
            return ""
        since = self.done - self.first
        parts = [f"{self.doing}: {self.done:,}/{self.total:,} {self.things}{self.note}"]
        if not since and not self.is_over:
            parts.append(f"{seconds:.0f} s")
        elif since and seconds > 0:
            parts.append(f"{_rate(since / seconds)} {self.things}/s")
        if self.is_over:
            parts.append(f"took {duration(seconds)}")
        elif since:
            parts.append(f"ETA {duration(seconds * (self.total - self.done) / since)}")
        return "  ".join(parts)


class _Busy(ShownWork):
    """Line "`doing`: 12 s" of work of unknown length."""

    def __init__(self, doing: str, log: Log) -> None:
        super().__init__(log)
        self.doing = doing

    def text(self, seconds: float) -> str:
        """Time so far."""
        return f"{self.doing}: {f'{seconds:.0f} s' if seconds < 60 else duration(seconds)}"


@contextmanager
def busy(doing: str, log: Log = print_error) -> Iterator[None]:
    """Context that shows "`doing`: 12 s" as long as it takes, such as "fitting the probe"."""
    work = _Busy(doing, log)
    with work:
        yield
    if work.is_shown:
        work.show(is_last=True)


@contextmanager
def shown_imports(libraries: Sequence[str] = LIBRARIES) -> Iterator[None]:
    """Context in which imports of large `libraries` are shown like other work."""
    finder = _SlowImports(set(libraries))
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _SlowImports:
    """Finder of modules that leaves the work to the ordinary one, and shows how long it takes."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self.names:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def shown(module: ModuleType) -> None:
                loader.exec_module = execute
                with busy(f"loading {name}"), _absent(UNUSED.get(name, ())):
                    execute(module)

            loader.exec_module = shown
        return spec


@contextmanager
def _absent(names: Sequence[str]) -> Iterator[None]:
    """Context in which libraries that were not imported yet seem not to be installed."""
    hidden = [name for name in names if name not in sys.modules]
    modules: dict[str, Any] = sys.modules
    modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]


def duration(seconds: float) -> str:
    """Format a duration: 1:02:03, or 2:03 below an hour."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def _rate(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
