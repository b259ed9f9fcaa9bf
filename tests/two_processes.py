"""A program run by two processes that work together."""

import subprocess
import sys
from pathlib import Path

from tests.runs import environment


def run_two(program: str, folder: Path) -> list[str]:
    """Run `program` twice at once, with `folder` and the rank as arguments; return both outputs."""
    file = folder / "program.py"
    file.write_text(program)
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error::FutureWarning", str(file), str(folder), str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for rank in range(2)
    ]
    try:
        ends = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, (_, errors) in zip(processes, ends, strict=True):
        assert process.returncode == 0, errors
    return [output.strip() for output, _ in ends]
