"""Entry point of `python -m mae`."""

import sys

from mae.cli import main

sys.exit(main())
