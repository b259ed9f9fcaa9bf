"""Entry point of `python -m mae`."""

from mae.cli import run

run()
