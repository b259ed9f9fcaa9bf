"""Options of `mae evaluate`; those of `mae finetune` are settings."""

from pathlib import Path
from typing import Any

from mae.cores import usable_cores
from mae.options.parsing import command, device_option, natural


def add_classifier_commands(commands: Any) -> None:
    """`mae evaluate`."""
    judge = command(
        commands,
        "classifier",
        "evaluate",
        "accuracy of a fine-tuned classifier on labelled shards, overall and class by class",
    )
    judge.add_argument("run", type=Path, help="run folder of `mae finetune`, or a checkpoint in it")
    judge.add_argument("--test", nargs="+", required=True, help="labelled shards")
    judge.add_argument(
        "--out",
        type=Path,
        help="JSON file, with the confusion matrix beside it as a PNG "
        "(RUN/evaluation.json if unset)",
    )
    judge.add_argument(
        "--beside", type=Path, metavar="RUN", help="another run, compared on the same images"
    )
    judge.add_argument("--workers", type=natural, default=usable_cores(), help="decoding processes")
    device_option(judge)
