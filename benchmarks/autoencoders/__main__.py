"""Entry point of `python -m benchmarks.autoencoders`."""

import sys

from benchmarks.autoencoders.comparison import main

if __name__ == "__main__":
    sys.exit(main())
