"""A run kept alive: `python -m mae.supervise COMMAND …`, or `mae pretrain --supervise CONFIG …`.

COMMAND is any command line with `-m mae.pretrain CONFIG …` or `-m mae.finetune SOURCE …` in it, a
launcher's for instance.  When it dies it is started again, and goes on from its last checkpoint,
as long as checkpoints get newer.

Nothing here imports torch: whoever watches over a run must be small and start at once.
"""

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import psutil

from mae.base.errors import UserError
from mae.base.exit_status import (
    DONE,
    STATUS_FILE,
    STATUS_VARIABLE,
    STOPPED,
    WRONG_USE,
    append_event,
    clear_exit_status,
    read_exit_status,
)
from mae.base.process_group import ProcessGroup
from mae.config.loading import load_config
from mae.objectives.registry import declarations

LONGEST_DELAY = 600.0
SAVING_TAKES = 600.0
"""seconds, at most, that a run which was asked to stop is given once its launcher is gone"""
SIGNAL_COMES_WITHIN = 0.5
"""seconds: who sends it to every process may come to this one last"""
WORD_COMES_WITHIN = 2.0
"""seconds after a launcher's death: the word may come from another machine"""


class Ended(NamedTuple):
    """How one launch came to its end."""

    code: int
    reason: str
    told: bool
    """by the run itself"""


def newest_step(folder: Path) -> int | None:
    """The step of the newest whole checkpoint in the run folder."""
    names = (path.name for path in (folder / "checkpoints").glob("step-*"))
    steps = [int(found[1]) for name in names if (found := re.fullmatch(r"step-(\d+)", name))]
    return max(steps, default=None)


def run_folder(command: Sequence[str]) -> Path:
    """Where the run of this command line goes; UserError where its settings are wrong."""
    for i in range(1, len(command)):
        before, _, kind = command[i].rpartition(".")
        if kind not in ("pretrain", "finetune") or not (
            (command[i - 1] == "-m" and before == "mae")
            or (Path(command[i - 1]).name == "mae" and not before)
        ):
            continue
        if words := [word for word in command[i + 1 :] if not word.startswith("-")]:
            if kind == "finetune":
                (trained,) = declarations("mae finetune")
                return Path(trained.settings_from(Path(words[0]), words[1:]).output)
            return Path(load_config(words[0], words[1:]).output)
    raise UserError(
        "supervise: the command has neither `-m mae.pretrain CONFIG` nor `-m mae.finetune SOURCE` "
        "in it"
    )


class Supervisor:
    """Launches, waits, passes signals on, launches again."""

    def __init__(
        self, command: Sequence[str], folder: Path, relaunches: int = 3, delay: float = 10.0
    ) -> None:
        """At most `relaunches` in a row that bring no newer checkpoint.

        The first comes after `delay` seconds, each further one in a row after twice as many.
        """
        self.command, self.folder = list(command), folder
        self.relaunches, self.delay = relaunches, delay
        self.family = ProcessGroup()
        self.pending: list[int] = []
        self.stop_asked = ""
        """name of the first signal that came"""
        self.interrupts = 0

    def run(self) -> int:
        """Until the run is done, refused, stopped or given up: its exit code."""
        signals = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # ignored under nohup
            signals.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._note) for number in signals}
        try:
            with tempfile.TemporaryDirectory(prefix="mae-supervise-") as private:
                return self._run(Path(private) / STATUS_FILE)
        finally:
            self._kill_all()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run(self, private: Path) -> int:
        fruitless, step = 0, newest_step(self.folder)
        while True:
            ended = self._launch(private)
            before, step = step, newest_step(self.folder)
            if ended.code in (DONE, WRONG_USE):
                return ended.code
            if self.stop_asked:
                return self._stopped(step, ended)
            has_progress = step is not None and (before is None or step > before)
            fruitless = 0 if has_progress else fruitless + 1
            stands = f"stands at step {step}" if step is not None else "has no checkpoint"
            if fruitless > self.relaunches:
                _say(f"{ended.reason}; {stands}, {self.relaunches} relaunches changed nothing: end")
                append_event(self.folder, step, "give up", ended.reason)
                return ended.code
            delay = min(LONGEST_DELAY, self.delay * 2 ** max(0, fruitless - 1))
            _say(f"{ended.reason}; {stands}, relaunch in {delay:g} s")
            append_event(self.folder, step, "relaunch", ended.reason)
            self._pause(delay)
            if self.stop_asked:
                return self._stopped(step, ended._replace(told=False))

    def _stopped(self, step: int | None, ended: Ended) -> int:
        where = "without a checkpoint" if step is None else f"at step {step}"
        _say(f"stopped by {self.stop_asked} {where}; the same command continues")
        if not ended.told:
            append_event(self.folder, step, "stop", f"{self.stop_asked}, {ended.reason}")
        # Killed before it could answer is stopped, too; having failed to stop is not.
        return ended.code if ended.told else STOPPED

    def _launch(self, private: Path) -> Ended:
        """One life of the command, to the death of all its processes."""
        clear_exit_status(self.folder)
        private.unlink(missing_ok=True)
        try:
            child = subprocess.Popen(
                self.command,
                env=self.family.environment() | {STATUS_VARIABLE: str(private)},
                stdin=subprocess.DEVNULL,
                process_group=0,  # a terminal's Ctrl-C comes here only, and is passed on once
            )
        except OSError as error:
            raise UserError(f"supervise: {self.command[0]}: {error.strerror}") from None
        while child.poll() is None:
            self._pass_all_on(child)
            with suppress(subprocess.TimeoutExpired):
                child.wait(0.1)
        died = time.monotonic()
        # A stop that was sent to every process kills launchers at once.
        while self.family.training_processes():
            patience = SAVING_TAKES if self.stop_asked else SIGNAL_COMES_WITHIN
            if time.monotonic() - died > patience:
                break
            self._pass_all_on(child)
            time.sleep(0.05)
        self._kill_all()
        return self._how_it_ended(private, child.returncode)

    def _how_it_ended(self, private: Path, code: int) -> Ended:
        """What the run said of itself, else what its exit code (-n: killed by signal n) says."""
        deadline = time.monotonic() + (WORD_COMES_WITHIN if code else 0)
        while True:
            for path in (private, self.folder / STATUS_FILE):
                if word := read_exit_status(path):
                    return Ended(word.code, word.reason, told=True)
            if time.monotonic() >= deadline:
                break
            time.sleep(0.1)
        if code < 0:
            return Ended(128 - code, f"killed by {signal.Signals(-code).name}", told=False)
        return Ended(code, f"died without a word (exit code {code})", told=False)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.pending.append(number)
        self.stop_asked = self.stop_asked or signal.Signals(number).name

    def _pass_all_on(self, child: subprocess.Popen) -> None:
        while self.pending:
            self._pass_on(self.pending.pop(0), child)

    def _pass_on(self, number: int, child: subprocess.Popen) -> None:
        """To the processes that train, and not to their launchers.

        With one process accelerate's launcher dies of the signal and leaves the run behind; with
        several it passes the signal on, but kills them 30 s later, with or without a checkpoint.
        """
        self.interrupts += number == signal.SIGINT
        if self.interrupts > 2:
            _say("interrupted for the third time: killing the run")
            self._kill_all()
            return
        number = signal.SIGTERM if number == signal.SIGHUP else number
        training = self.family.training_processes()
        if not training:  # on other machines (srun passes it on), or not started yet
            child.send_signal(number)
        for process in training:
            with suppress(psutil.Error):
                process.send_signal(number)

    def _kill_all(self) -> None:
        """Nothing of a launch may write, or hold a GPU, beside the next one."""
        if left := self.family.kill():
            _say(f"processes {left} cannot be killed (waiting for a device or a disk?)")

    def _pause(self, seconds: float) -> None:
        """Ends early with a signal."""
        deadline = time.monotonic() + seconds
        while not self.stop_asked and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(0.1, left))


def _say(text: str) -> None:
    print(f"mae: supervise: {text}", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the run's own exit code, whatever launchers make of it."""
    parser = argparse.ArgumentParser(prog="python -m mae.supervise", description=__doc__)
    parser.add_argument(
        "--relaunches", type=int, default=3, help="in a row without a newer checkpoint, at most"
    )
    parser.add_argument("--delay", type=float, default=10.0, help="seconds before the first")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="such as accelerate launch …")
    args = parser.parse_args(argv)
    try:
        folder = run_folder(args.command)
        return Supervisor(args.command, folder, args.relaunches, args.delay).run()
    except UserError as error:
        for line in str(error).splitlines():
            print(f"mae: {line}", file=sys.stderr)
        return WRONG_USE


if __name__ == "__main__":
    sys.exit(main())
