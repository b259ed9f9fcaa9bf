"""Exit codes and messages of these programs, as those of `mae`."""

import sys
from collections.abc import Callable

from mae.errors import RunFailed, UserError


def exit_code(work: Callable[[], None]) -> int:
    """Do `work`: 0 done, 1 failed, 2 wrong use."""
    try:
        work()
    except UserError as error:
        for line in str(error).splitlines():
            print(f"benchmarks: {line}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbenchmarks: interrupted", file=sys.stderr)
        return 1
    return 0
