"""`mae.bench.child` for any implementation: `python -m benchmarks.child JSON`."""

from collections.abc import Callable

from mae.bench import child
from mae.bench.cases import Case


def any_step(case: Case) -> Callable[[], object]:
    """The step of `case`; what it imports counts as its memory, as in every implementation."""
    from benchmarks.others import build_step

    return build_step(case)


if __name__ == "__main__":
    child.main(any_step)
