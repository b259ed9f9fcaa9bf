"""State of the calling program that a training changes: restored after it."""

import os
import random
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from mae.base.device import return_freed_memory
from mae.base.errors import UserError

SERVICES = ("MLFLOW_", "COMET_")
"""beginnings of the environment variables that trackers set"""
ONE = threading.Lock()
"""held while this process trains"""


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold the right to train; raises UserError where another thread of this process trains.

    Signals, random generators and accelerate's state are those of the whole process.
    """
    if not ONE.acquire(blocking=False):
        raise UserError("training: another one is running in this process: wait for its end")
    try:
        yield
    finally:
        ONE.release()


@contextmanager
def kept_state() -> Iterator[None]:
    """Keep random generators, accelerate's state, variables, the hook for tracebacks as they are.

    Freed memory goes back to the system where the training kept it, as one on a CPU does.

    A training seeds Python's, NumPy's and torch's generators in every step; accelerate's state, the
    precision among others, is one for the process, and the program may have an Accelerator.
    """
    import numpy as np
    import torch
    from accelerate.state import AcceleratorState, GradientState, PartialState

    states = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    before = [dict(state) for state in states]
    generators = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    hook, variables = sys.excepthook, _service_variables()
    for state in states:
        state.clear()
    try:
        yield
    finally:
        for state, kept in zip(states, before, strict=True):
            state.clear()
            state.update(kept)
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        torch.random.set_rng_state(generators[2])
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
        sys.excepthook = hook
        for name in _service_variables().keys() - variables.keys():
            del os.environ[name]
        os.environ.update(variables)
        return_freed_memory()


def _service_variables() -> dict[str, str]:
    """Environment variables that trackers set, for themselves or at our request."""
    return {name: value for name, value in os.environ.items() if name.startswith(SERVICES)}


@contextmanager
def freed_frames() -> Iterator[None]:
    """Free what the frames of an error hold: models, and the processes that decode images.

    A notebook keeps the last error, and so the local variables of all functions it passed.
    """
    try:
        yield
    except BaseException as error:
        seen: BaseException | None = error
        while seen is not None:
            traceback.clear_frames(seen.__traceback__)
            seen = seen.__cause__ or seen.__context__
        raise
