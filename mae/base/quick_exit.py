"""Exit of a command without the interpreter's clean-up of its modules.

With torch, timm and accelerate imported that takes seconds, in which nothing happens that a command
needs: its memory and files are the system's to free.
"""

import atexit
import ctypes
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn


def exit_quickly(main: Callable[[], int]) -> NoReturn:
    """Exit with the code that `main` returns, once all threads and exit handlers are done.

    Handlers run from the last registered to the first, which is this one's: those of torch,
    multiprocessing and trackers have run by then.  Those registered earlier would never run: where
    there are any, such as a profiler's, the exit is the usual one.  So it is after an error in
    `main`, and for a process that has others beside it, which may still be connected to it.
    """
    codes: list[int] = []
    # One is logging's, whose work `_leave` does.  Only CPython has the count.
    if getattr(atexit, "_ncallbacks", lambda: math.inf)() <= 1:
        atexit.register(_leave, codes)
    codes.append(main())
    sys.exit(codes[0])


def _leave(codes: Sequence[int]) -> None:
    """End the process, unless somebody measures it, or its output cannot be written."""
    is_one_of_several = os.environ.get("WORLD_SIZE", "1") not in ("", "1")
    if not codes or is_one_of_several or "coverage" in sys.modules:
        return
    logging.shutdown()  # the handler registered before this one
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):  # which the interpreter reports
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).fflush(None)  # what libraries have printed
    os._exit(codes[0])
