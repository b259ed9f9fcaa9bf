"""`mae report`."""

import argparse

from mae.report.page import write_report


def report(args: argparse.Namespace) -> None:
    """`mae report`."""
    print(write_report(args.run, args.out or args.run / "report.html"))
