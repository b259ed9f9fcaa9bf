"""A run from its settings to its exit code, whatever its objective."""

from collections.abc import Callable

from mae.config.sections import Config
from mae.training.ending import Ending


def start(load: Callable[[], Config], is_dry: bool = False) -> int:
    """Carry out the run that `load` describes, or with `is_dry` only try it out.

    Returns the exit code: 0 done, 1 failed, 2 wrong use, 75 stopped early.
    """
    ending = Ending()

    def work() -> None:
        config = load()
        # torch comes with it: not for a misspelt setting
        from mae.training.train import leave_processes, train

        train(config, ending, is_dry)
        leave_processes()

    return ending.exit_code(work)
