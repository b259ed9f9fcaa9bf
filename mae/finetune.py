"""Fine-tuning: `mae finetune SOURCE [RECIPE] [section.key=value …] [--processes N]`.

SOURCE is the run folder of a pretraining or one of its checkpoints, whose encoder, sizes,
normalisation and data are used; or a recipe with init.from=… (init.from=none trains from scratch).
Settings default to the published recipe for the encoder's size, which few labels change, each
change printed with its reason; RECIPE gives others for SOURCE.  A recipe is a name of `mae
recipes`, or its beginning, or a YAML file.  The same command resumes from the last checkpoint.  At
the end the classifier is evaluated on data.val, if set.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mae.base.exit_status import DONE, exit_code
from mae.base.local_launch import launched, processes_option, split_processes
from mae.base.output import guarded_output
from mae.base.quick_exit import exit_quickly
from mae.config.choices import describe_choices, recorded_choices
from mae.config.sections import Config
from mae.config.settings_help import describe_settings, often_typed
from mae.objectives.registry import declarations
from mae.training.auto import labelled_images
from mae.training.start import start

COMMAND = "mae finetune"


@guarded_output()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code: 0 done, 1 failed, 2 wrong use, 75 stopped early."""
    (trained,) = declarations(COMMAND)
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description=__doc__,
        epilog=(
            trained.describe_recipe() + describe_settings(COMMAND) + often_typed(COMMAND)
        ).replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="run folder of a pretraining, or a recipe")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="section.key=value",
        help="settings to override; before them, a recipe for the run",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check settings and data, run one step, estimate memory and time",
    )
    processes_option(parser)
    words, asked = split_processes(sys.argv[1:] if argv is None else argv)
    args = parser.parse_intermixed_args(words)
    configs: list[Config] = []

    def load() -> Config:
        configs.append(settings_of(args.source, args.settings))
        return configs[-1]

    def check() -> None:
        trained.settings_from(args.source, args.settings)

    code = launched(asked, "mae.finetune", words, check)
    if code is not None:
        return code
    code = start(load, args.dry_run)
    is_first = os.environ.get("RANK", "0") == "0"
    if code == DONE and not args.dry_run and is_first and configs[-1].data.held_out:
        return _evaluate(configs[-1])
    return code


def settings_of(source: str, words: Sequence[str]) -> Config:
    """Settings of `mae finetune SOURCE [RECIPE] [section.key=value …]`; `words` follow SOURCE.

    Prints what few labels change, unless the run is resumed.  Raises UserError where settings or
    data are wrong.
    """
    (trained,) = declarations(COMMAND)
    config = trained.settings_from(source, words, labelled_images)
    choices = recorded_choices(config.model_dump(mode="json"))
    if choices and os.environ.get("RANK", "0") in ("", "0"):
        lines = ["recipe  adapted to these labels:", *describe_choices(choices)]
        if (recorded := Path(config.output) / "config.yaml").exists():
            lines = [f"recipe  settings as recorded in {recorded}"]
        print("\n".join(lines), flush=True)
    return config


def _evaluate(config: Config) -> int:
    """Evaluate the last checkpoint on data.val; the exit code."""
    from mae.commands.evaluate import evaluate_held_out

    return exit_code(lambda: print(evaluate_held_out(config), *comparisons(config), sep="\n"))


def comparisons(config: Config) -> Iterator[str]:
    """Lines with the commands that show what pretraining was worth; none from scratch."""
    if not config.init.from_:
        return
    yield "What was pretraining worth? Compare, on the same images:"
    scratch = shlex.quote(f"{config.output}-scratch")
    again = f"  the same command with init.from=none output={scratch}"
    if not config.data.val:  # a share of data.train, which no other command knows
        yield again
        return
    train, test = (shlex.join(shards) for shards in (config.data.train, config.data.val))
    run = shlex.quote(config.init.from_)
    if Path(config.init.from_).is_dir():
        yield f"  mae probe {run} --train {train} --test {test} --baselines   (raw pixels, too)"
    yield f"{again}, and then"
    yield f"  mae evaluate {shlex.quote(config.output)} --test {test} --beside {scratch}"


if __name__ == "__main__":
    exit_quickly(main)
