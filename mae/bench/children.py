"""The processes that measure, from outside."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Self

from mae.errors import RunFailed

COMMAND = (sys.executable, "-m", "mae.bench.child")
LAST_LINES = 5


class Child:
    """One process of `mae.bench.child`; made ready in the background."""

    def __init__(self, what: Mapping, environment: Mapping[str, str]) -> None:
        """`environment`: variables beside this process's own."""
        self.error: str | None = None
        """why it measures nothing"""
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed in __exit__)
        self.process = subprocess.Popen(
            [*COMMAND, json.dumps(what)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, **environment},
        )

    def wait_until_ready(self) -> None:
        """Afterwards it rests, or `error` tells why it cannot be measured."""
        answer = self._answer()
        self.error = self.error or answer.get("error")

    def round(self, seconds: float) -> dict:
        """One round of about so many seconds; empty where it cannot be measured."""
        if self.error:
            return {}
        assert self.process.stdin
        with suppress(BrokenPipeError):  # the missing answer tells more
            print(seconds, file=self.process.stdin, flush=True)
        answer = self._answer()
        return {} if self.error else answer

    def _answer(self) -> dict:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait()
        if code == -signal.SIGKILL:  # by the kernel, where there is not enough memory
            self.error = "out of memory"
            return {}
        self.log.seek(0)
        last = " | ".join(self.log.read().strip().splitlines()[-LAST_LINES:])
        raise RunFailed(f"bench: a measuring process ended with code {code}: {last}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate()
        self.log.close()


class Children:
    """Many of them, at most `at_once` of which are made ready at the same time."""

    def __init__(
        self, whats: Mapping[str, Mapping], environment: Mapping[str, str], at_once: int
    ) -> None:
        self.stack = ExitStack()
        self.by_name: dict[str, Child] = {}
        try:
            for name, what in whats.items():
                started = list(self.by_name.values())
                if len(started) >= at_once:
                    started[-at_once].wait_until_ready()
                self.by_name[name] = self.stack.enter_context(Child(what, environment))
            for child in list(self.by_name.values())[-at_once:]:
                child.wait_until_ready()
        except BaseException:
            self.stack.close()
            raise

    def __enter__(self) -> dict[str, Child]:
        return self.by_name

    def __exit__(self, *details: object) -> None:
        self.stack.close()
