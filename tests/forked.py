"""Processes that work together, forked from one that has imported torch.

`python -m tests.forked COUNT [--import MODULE] PROGRAM ARGUMENTS…`; PROGRAM is a script (.py) or a
module.  Several programs, one after the other, are divided by `--then`.  For tests in which
accelerate's launcher is not the point: it imports torch once more, and so does each of its
processes.  The variables are those that every launcher sets.
"""

import importlib
import os
import runpy
import signal
import socket
import sys
import traceback

import mae.training.train  # noqa: F401  # once, for all of them


def main(argv: list[str]) -> int:
    """Run the programs in all processes; the largest exit code."""
    count, *words = argv
    if words[0] == "--import":
        importlib.import_module(words[1])
        words = words[2:]
    codes = []
    while words:
        end = words.index("--then") if "--then" in words else len(words)
        program, *arguments = words[:end]
        codes.append(launch(count, program, arguments))
        words = words[end + 1 :]
    return max(codes)


def launch(count: str, program: str, words: list[str]) -> int:
    """Run a program in all processes; when one fails, the others are ended, as by a launcher."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = set()
    for rank in range(int(count)):
        child = os.fork()
        if not child:
            os.environ |= {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            os._exit(run(program, words))
        children.add(child)
    codes = []
    while children:
        child, status = os.wait()
        children.discard(child)
        codes.append(os.waitstatus_to_exitcode(status))
        if codes[-1] not in (0, 75):
            for other in children:
                os.kill(other, signal.SIGKILL)
    return max(codes)


def run(program: str, words: list[str]) -> int:
    """Run the program as the main one of this process; its exit code."""
    sys.argv = [program, *words]
    code = 1
    try:
        if program.endswith(".py"):
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
