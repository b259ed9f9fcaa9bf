"""Command line of mae with the toy objective registered: `python -m tests.toy …`."""

import sys

from mae.objectives import registry

registry.OBJECTIVES["toy"] = "tests.toy"

if __name__ == "__main__":
    from mae.cli import main

    sys.exit(main())
