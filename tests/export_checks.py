"""Checks of exports in the test's process, which saves the seconds of importing torch."""

import contextlib
import io
import subprocess
import traceback

import torch

from mae.export import check


def run_here(arguments):
    """Stand-in for `python -m mae.export.check …`."""
    printed, errors, code = io.StringIO(), "", 0
    threads = torch.get_num_threads()
    try:
        with contextlib.redirect_stdout(printed):
            code = check.main(arguments)
    except Exception:
        errors, code = traceback.format_exc(), 1
    finally:
        torch.set_num_threads(threads)
    return subprocess.CompletedProcess(arguments, code, printed.getvalue(), errors)
