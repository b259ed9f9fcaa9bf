"""`mae supervise COMMAND …`: relaunch a run after crashes (also `mae pretrain --supervise`).

COMMAND is any command line with `-m mae.pretrain CONFIG …` or `-m mae.finetune SOURCE …` in it, a
launcher's for instance.  When it dies it is started again and resumes from its last checkpoint, as
long as checkpoints get newer.

Nothing here imports torch: the supervisor must be small and start at once.
"""

import argparse
import os
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
from typing import Any, NamedTuple

import psutil

from mae.base.errors import RunFailed, UserError
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
from mae.base.launch import passed_on
from mae.base.local_launch import split_processes
from mae.base.process_group import ProcessGroup
from mae.commands.argument_types import natural, not_negative
from mae.commands.options import add_command
from mae.config.loading import load_config
from mae.config.recipes import find_recipe
from mae.objectives.registry import declarations
from mae.training.auto import AUTO, checked

LONGEST_DELAY = 600.0
"""maximum number of seconds before a relaunch"""
SAVING_TIMEOUT = 600.0
"""seconds for a run that was asked to stop to end, once its launcher is gone"""
SIGNAL_TIMEOUT = 0.5
"""seconds for a signal to arrive here: one sent to all processes may reach this one last"""
STATUS_TIMEOUT = 2.0
"""seconds for an exit status after a launcher's death: it may come from another machine"""
TRAINS_NOTHING = frozenset(("--dry-run", "--help", "-h"))
"""options of a run that end it without training"""
EPILOG = (
    "The run resumes from its newest checkpoint. Signals are passed on to it, and its own exit "
    "code is returned: 0 done, 1 failed, 2 wrong use, 75 stopped early with a checkpoint. Example: "
    "mae supervise accelerate launch -m mae.pretrain CONFIG, or mae pretrain CONFIG --supervise."
)


class LaunchEnd(NamedTuple):
    """End of one launch."""

    code: int
    reason: str
    is_reported: bool
    """`code` and `reason` are from the run's own exit status"""


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(commands, "supervise", "relaunch a run after crashes", run, EPILOG)
    parser.add_argument(
        "--relaunches",
        type=natural,
        default=3,
        help="maximum number of relaunches in a row without a newer checkpoint",
    )
    parser.add_argument(
        "--delay",
        type=not_negative,
        default=10.0,
        help="seconds before the first relaunch in a row; doubled for each further one",
    )
    parser.add_argument(
        "launch",
        nargs=argparse.REMAINDER,
        metavar="COMMAND …",
        help="command line with -m mae.pretrain or -m mae.finetune, such as accelerate launch …",
    )


def run(args: argparse.Namespace) -> int:
    """Supervise the run of the command line; the run's own exit code."""
    folder = run_folder(args.launch)
    return Supervisor(args.launch, folder, args.relaunches, args.delay).run()


def newest_step(folder: Path) -> int | None:
    """Step of the newest whole checkpoint in the run folder; None without one."""
    names = (path.name for path in (folder / "checkpoints").glob("step-*"))
    steps = [int(found[1]) for name in names if (found := re.fullmatch(r"step-(\d+)", name))]
    return max(steps, default=None)


def run_folder(command: Sequence[str]) -> Path:
    """Run folder of this command line; raises UserError where its settings are wrong."""
    for i in range(1, len(command)):
        before, _, kind = command[i].rpartition(".")
        if kind not in ("pretrain", "finetune") or not (
            (command[i - 1] == "-m" and before == "mae")
            or (Path(command[i - 1]).name == "mae" and not before)
        ):
            continue
        words, _ = split_processes(command[i + 1 :])
        if words := [word for word in words if not word.startswith("-")]:
            if kind == "finetune":
                (trained,) = declarations("mae finetune")
                return Path(trained.settings_from(words[0], words[1:]).output)
            if words[0] == AUTO:
                return Path(checked(words[1:], "mae pretrain")[0].output)
            path = find_recipe(words[0], "mae pretrain")
            return Path(load_config(path, words[1:]).output)
    raise UserError(
        "supervise: the command has neither `-m mae.pretrain CONFIG` nor `-m mae.finetune SOURCE` "
        "in it"
    )


class Supervisor:
    """Launches a command, waits, passes signals on, and relaunches it after crashes."""

    def __init__(
        self, command: Sequence[str], folder: Path, relaunches: int = 3, delay: float = 10.0
    ) -> None:
        """Supervisor of the run in `folder`.

        `relaunches` is the maximum number of relaunches in a row without a newer checkpoint.  The
        first follows after `delay` seconds, each further one in a row after twice as long.
        """
        self.command, self.folder = list(command), folder
        self.relaunches, self.delay = relaunches, delay
        self.trains_nothing = not TRAINS_NOTHING.isdisjoint(command)
        self.processes = ProcessGroup()
        self.pending: list[int] = []
        """signals received and not yet passed on"""
        self.stop_signal = ""
        """name of the first signal received"""
        self.interrupts = 0

    def run(self) -> int:
        """Exit code of the run, once it is done, refused, stopped or given up."""
        signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        before = {number: signal.signal(number, self._note) for number in signals}
        # As under nohup: a lost terminal costs nothing.
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with tempfile.TemporaryDirectory(
                prefix="mae-supervise-", ignore_cleanup_errors=True
            ) as own:
                return self._run(Path(own) / STATUS_FILE)
        finally:
            self._kill_all()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run(self, status: Path) -> int:
        failures, step = 0, newest_step(self.folder)
        while True:
            ended = self._launch(status)
            before, step = step, newest_step(self.folder)
            has_progress = step is not None and (before is None or step > before)
            if ended.code == DONE and not (
                ended.is_reported or has_progress or self.trains_nothing
            ):
                raise RunFailed(
                    f"supervise: {self.command[0]} ended with exit code 0, but no run reported its "
                    f"end and {self.folder} has no newer checkpoint: give a command that trains, "
                    "and that ends when the run does"
                )
            if ended.code in (DONE, WRONG_USE):
                return ended.code
            if self.stop_signal:
                return self._stopped(step, ended)
            failures = 0 if has_progress else failures + 1
            stands = f"stands at step {step}" if step is not None else "has no checkpoint"
            if failures > self.relaunches:
                _log(
                    f"{ended.reason}; {stands}, giving up after {self.relaunches} relaunches "
                    "without a newer checkpoint"
                )
                append_event(self.folder, step, "give up", ended.reason)
                return ended.code
            delay = min(LONGEST_DELAY, self.delay * 2 ** max(0, failures - 1))
            _log(f"{ended.reason}; {stands}, relaunch in {delay:g} s")
            append_event(self.folder, step, "relaunch", ended.reason)
            self._pause(delay)
            if self.stop_signal:
                return self._stopped(step, ended._replace(is_reported=False))

    def _stopped(self, step: int | None, ended: LaunchEnd) -> int:
        where = "without a checkpoint" if step is None else f"at step {step}"
        _log(f"stopped by {self.stop_signal} {where}; the same command continues")
        if not ended.is_reported:
            append_event(self.folder, step, "stop", f"{self.stop_signal}, {ended.reason}")
        # Killed before it could report counts as stopped; a reported failure does not.
        return ended.code if ended.is_reported else STOPPED

    def _launch(self, status: Path) -> LaunchEnd:
        """Run the command once, until all its processes are dead; `status`: its own status file."""
        clear_exit_status(self.folder)
        status.unlink(missing_ok=True)
        try:
            child = subprocess.Popen(
                self.command,
                env=self.processes.environment()
                | {STATUS_VARIABLE: str(status)}
                | passed_on(os.environ),
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
        while self.processes.training_processes():
            patience = SAVING_TIMEOUT if self.stop_signal else SIGNAL_TIMEOUT
            if time.monotonic() - died > patience:
                break
            self._pass_all_on(child)
            time.sleep(0.05)
        self._kill_all()
        return self._launch_end(status, child.returncode)

    def _launch_end(self, status: Path, code: int) -> LaunchEnd:
        """End by the run's own exit status, else by the exit code (-n: killed by signal n)."""
        waits = code != DONE or not self.trains_nothing
        deadline = time.monotonic() + (STATUS_TIMEOUT if waits else 0)
        while True:
            for path in (status, self.folder / STATUS_FILE):
                if found := read_exit_status(path):
                    return LaunchEnd(found.code, found.reason, is_reported=True)
            if time.monotonic() >= deadline:
                break
            time.sleep(0.1)
        if code < 0:
            reason = f"killed by {signal.Signals(-code).name}"
            return LaunchEnd(128 - code, reason, is_reported=False)
        return LaunchEnd(code, f"died without an exit status (exit code {code})", is_reported=False)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.pending.append(number)
        self.stop_signal = self.stop_signal or signal.Signals(number).name

    def _pass_all_on(self, child: subprocess.Popen) -> None:
        while self.pending:
            self._pass_on(self.pending.pop(0), child)

    def _pass_on(self, number: int, child: subprocess.Popen) -> None:
        """Send a signal to the training processes, not to their launchers.

        With one process accelerate's launcher dies of the signal and leaves the run behind; with
        several it passes the signal on, but kills them 30 s later, with or without a checkpoint.
        """
        self.interrupts += number == signal.SIGINT
        if self.interrupts > 2:
            _log("interrupted for the third time: killing the run")
            self._kill_all()
            return
        training = self.processes.training_processes()
        if not training:  # on other machines (srun passes it on), or not started yet
            child.send_signal(number)
        for process in training:
            with suppress(psutil.Error):
                process.send_signal(number)

    def _kill_all(self) -> None:
        """Kill all processes of a launch, lest they write, or hold a GPU, beside the next one."""
        if left := self.processes.kill():
            _log(f"processes {left} cannot be killed (waiting for a device or a disk?)")

    def _pause(self, seconds: float) -> None:
        """Sleep; a signal ends it early."""
        deadline = time.monotonic() + seconds
        while not self.stop_signal and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(0.1, left))


def _log(text: str) -> None:
    print(f"mae: supervise: {text}", file=sys.stderr, flush=True)
