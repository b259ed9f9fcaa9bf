"""A run's first start from weights."""

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from mae.config.sections import Config
from mae.initial.record import Initial
from mae.initial.whole import start_whole
from mae.objectives.base import Objective
from mae.objectives.registry import implementation
from mae.training.checkpoint import checkpoints
from mae.training.run import Run


def start_from_weights(
    config: Config, objective: Objective, run: Run, accelerator: Accelerator
) -> Initial | None:
    """Load `init.from` into `objective`; None without it, or where the run goes on.

    All processes call it, before the model is wrapped.  A run with a checkpoint has weights of
    its own, and needs the source no more.  Raises UserError as `initialize`.
    """
    if not config.init.from_:
        return None
    # Files may show late on another machine: the first process sees for all.
    if broadcast_object_list([bool(checkpoints(run.checkpoints))])[0]:
        return None
    with accelerator.main_process_first():  # the first to come downloads, the others find it
        return initialize(objective, config)


def initialize(objective: Objective, config: Config) -> Initial:
    """Load what `config.init` names, as the objective does it or else all of its weights.

    Raises UserError where that is not to be had, or not all that it should be.
    """
    initial = implementation(config.objective).load_initial(objective, config)
    return initial or start_whole(objective, config.objective, config.init)
