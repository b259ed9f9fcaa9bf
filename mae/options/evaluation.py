"""Options of the commands that judge an encoder."""

from pathlib import Path
from typing import Any

from mae.options.parsing import command, device_option, natural, positive


def add_evaluation_commands(commands: Any) -> None:
    """`mae probe`."""
    probe = command(
        commands, "evaluation", "probe", "linear probe on frozen features of labelled shards"
    )
    probe.add_argument("run", type=Path, help="run folder")
    probe.add_argument("--train", nargs="+", required=True, help="labelled shards to fit on")
    probe.add_argument("--test", nargs="+", required=True, help="labelled shards to test on")
    probe.add_argument(
        "--per-class", type=positive, nargs="*", default=[], help="also with so few labels"
    )
    probe.add_argument(
        "--splits", type=positive, default=5, help="repetitions, each meeting the test set once"
    )
    probe.add_argument(
        "--baselines", action="store_true", help="probe the untrained encoder and pixels too"
    )
    probe.add_argument("--seed", type=natural, default=0, help="of the splits")
    probe.add_argument("--out", type=Path, help="JSON file (RUN/probe.json if unset)")
    device_option(probe)
    probe.add_argument("--workers", type=natural, default=0, help="decoding processes")
