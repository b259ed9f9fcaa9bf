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
import sys
from collections.abc import Sequence
from pathlib import Path

from mae.base.exit_status import DONE, exit_code
from mae.base.local_launch import launched, processes_option, split_processes
from mae.base.output import guarded_output
from mae.config.choices import describe_choices, recorded_choices
from mae.config.sections import Config
from mae.config.settings_help import describe_settings
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
        epilog=(trained.describe_recipe() + describe_settings(COMMAND)).replace("%", "%%"),
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
        configs.append(trained.settings_from(args.source, args.settings, labelled_images))
        choices = recorded_choices(configs[-1].model_dump(mode="json"))
        if choices and os.environ.get("RANK", "0") in ("", "0"):
            print(
                "recipe  adapted to these labels:", *describe_choices(choices), sep="\n", flush=True
            )
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


def _evaluate(config: Config) -> int:
    """Evaluate the last checkpoint on data.val; the exit code."""
    from mae.base.device import choose_device, loader_count
    from mae.commands.evaluate import evaluate_run

    folder = Path(config.output)
    out, workers = folder / "evaluation.json", loader_count(config.data.workers)

    def work() -> None:
        device = choose_device("auto")
        print(
            evaluate_run(
                folder,
                config.data.held_out,
                key="data.val",
                out=out,
                device=device,
                workers=workers,
                read_with=lambda recorded: recorded.model_copy(update={"data": config.data}),
            )
        )

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
