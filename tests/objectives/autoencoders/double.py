"""Small recipes in float64, one after another: `python -m tests.objectives.autoencoders.double`.

Arguments: a JSON file with the arguments of `mae pretrain` for each.
"""

import json
import sys
from functools import partial
from pathlib import Path

from mae.config.loading import load_config
from mae.config.sections import Config
from mae.training.safety.lifecycle import RunLifecycle
from mae.training.train import destroy_process_group, train
from tests.objectives.autoencoders.recipes import in_double


def train_one(config: Config, lifecycle: RunLifecycle) -> None:
    """Train one run; the process group stays open."""
    train(config, lifecycle)


def main(file: str) -> int:
    """Train all; the first exit code that is not 0."""
    with in_double():
        for recipe, *settings in json.loads(Path(file).read_text()):
            lifecycle, config = RunLifecycle(), load_config(recipe, settings)
            if code := lifecycle.execute(partial(train_one, config, lifecycle)):
                return code
    destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
