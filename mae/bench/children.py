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

from mae.base.errors import RunFailed, UserError
from mae.bench.child import OUT_OF_MEMORY
from mae.objectives.registry import OBJECTIVES

CHILD = "mae.bench.child"
LAST_LINES = 5

START = """
import json, runpy, sys
from mae.objectives.registry import OBJECTIVES
known, module, *sys.argv[1:] = sys.argv[1:]
OBJECTIVES.update(json.loads(known))
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def command(module: str, *arguments: str) -> list[str]:
    """Command line of `python -m module`, with the objectives that this process knows."""
    return [sys.executable, "-c", START, json.dumps(OBJECTIVES), module, *arguments]


class Child:
    """One process of `mae.bench.child`, or of a module like it; made ready in the background."""

    def __init__(self, what: Mapping, environment: Mapping[str, str], module: str = CHILD) -> None:
        """`environment`: variables beside this process's own."""
        self.is_out_of_memory = False
        """it measures nothing any more"""
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed in __exit__)
        self.process = subprocess.Popen(
            command(module, json.dumps(what)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, **environment},
        )

    def wait_until_ready(self) -> None:
        """Afterwards it rests, or is out of memory.  Raises UserError where it cannot be had."""
        self._answer()

    def round(self, seconds: float) -> dict:
        """One round of about so many seconds; empty where memory is not enough."""
        if self.is_out_of_memory:
            return {}
        assert self.process.stdin
        with suppress(BrokenPipeError):  # the missing answer tells more
            print(seconds, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if line:
            answer = json.loads(line)
            if "error" not in answer:
                return answer
            if answer["error"] != OUT_OF_MEMORY:
                raise UserError(answer["error"])
        elif (code := self.process.wait()) != -signal.SIGKILL:
            self.log.seek(0)
            last = " | ".join(self.log.read().strip().splitlines()[-LAST_LINES:])
            raise RunFailed(f"bench: a measuring process ended with code {code}: {last}")
        # Told by the process, or killed by the system for want of it.
        self.is_out_of_memory = True
        return {}

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
        self,
        whats: Mapping[str, Mapping],
        environment: Mapping[str, str],
        at_once: int,
        module: str = CHILD,
    ) -> None:
        self.stack = ExitStack()
        self.by_name: dict[str, Child] = {}
        try:
            for name, what in whats.items():
                started = list(self.by_name.values())
                if len(started) >= at_once:
                    started[-at_once].wait_until_ready()
                self.by_name[name] = self.stack.enter_context(Child(what, environment, module))
            for child in list(self.by_name.values())[-at_once:]:
                child.wait_until_ready()
        except BaseException:
            self.stack.close()
            raise

    def __enter__(self) -> dict[str, Child]:
        return self.by_name

    def __exit__(self, *details: object) -> None:
        self.stack.close()
