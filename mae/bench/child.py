"""A case in a process of its own: `python -m mae.bench.child JSON`.

Alone in its process a case has its own peak memory and its own compiled code.  It answers each
line on standard input with a line of JSON on standard output: a number of seconds is a round of
about that long.  So the cases of many processes can be measured in turn.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

import torch

from mae.base.errors import UserError
from mae.bench.cases import Case
from mae.bench.ceiling import Ceiling, now, timed
from mae.bench.memory import PeakMemory

CEILING = "ceiling"
OUT_OF_MEMORY = "out of memory"
WARM_UP = 3
"""steps: the first compiles, the second allocates, CUDA graphs record in the third"""

Round = Callable[[float], dict]
"""a round of about so many seconds, and what it found"""

Build = Callable[[Case], Callable[[], object]]
"""makes the step of a case"""


def our_step(case: Case) -> Callable[[], object]:
    """Our step; what it imports counts as its memory, as in every implementation."""
    from mae.bench.training_step import build_step

    return build_step(case)


def serve(what: dict, questions: TextIO, answers: TextIO, build: Build = our_step) -> None:
    """Make ready what is described, say so, and answer until the questions end."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def answer(content: dict) -> None:
        print(json.dumps(content), file=answers, flush=True)

    try:
        if CEILING in what:
            one_round = ceiling_rounds(what, device)
        else:
            one_round = case_rounds(what, device, build)
        answer({"ready": True})
        for line in questions:
            answer(one_round(float(line)))
    except UserError as error:
        answer({"error": str(error)})
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
            raise
        answer({"error": OUT_OF_MEMORY})


def case_rounds(what: dict, device: torch.device, build: Build) -> Round:
    """Rounds of training steps, warmed up; the first step of a round is not counted."""
    memory = PeakMemory(device)
    step = build(Case(**what))
    for _ in range(WARM_UP):
        step()
    memory.restart()
    one = timed(step, 1, device)

    def one_round(seconds: float) -> dict:
        nonlocal one
        step()
        count = max(1, round(seconds / one))
        now(device)
        worked = time.process_time()
        one = timed(step, count, device)
        worked = (time.process_time() - worked) / count
        peak = memory.read()
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the others' turn
        return {"seconds": one, "cpu_seconds": worked, "steps": count, "memory": peak}

    return one_round


def ceiling_rounds(what: dict, device: torch.device) -> Round:
    """Rounds of matrix products in the precision of the cases."""
    is_half = device.type == "cuda" and what["precision"] != "fp32"
    use_bf16 = is_half or what["precision"] == "bf16"
    ceiling = Ceiling(device, torch.bfloat16 if use_bf16 else torch.float32, what[CEILING])
    return lambda seconds: {"flops": ceiling.measure(seconds), "size": ceiling.size}


def main(build: Build = our_step) -> None:
    """Serve a case; what libraries print goes where warnings go, so that answers stay JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(json.loads(sys.argv[1]), sys.stdin, answers, build)


if __name__ == "__main__":
    main()
