"""Export of a detector: calibration images to check it on, program, printed code."""

import argparse

from mae.anomaly.detector import MAIN, read_detector
from mae.anomaly.export import export_detector, refuse_untraceable
from mae.anomaly.sources import open_members
from mae.base.errors import UserError
from mae.base.redaction import lacks_secret, redacted
from mae.commands.anomaly_data import open_data


def export_command(args: argparse.Namespace) -> None:
    """Work of `mae anomaly export`."""
    if args.out.exists():
        raise UserError(f"{args.out}: is there already; nothing is overwritten")
    stored = read_detector(args.detector)
    settings = stored.settings
    member = open_members(args.detector, stored)[MAIN]
    refuse_untraceable(stored, member)
    patterns = args.calibration or settings.get("calibration_shards")
    if not patterns:
        raise UserError("--calibration: the detector does not record its shards: give them")
    if lacking := [one for one in patterns if lacks_secret(one)]:
        raise UserError(
            f"{redacted(lacking[0])}: its secret part was not recorded with the detector: give the "
            "calibration images again by --calibration"
        )
    try:
        calibration = open_data(
            patterns, "--calibration", args, settings["channels"], settings["bits"]
        )
    except UserError as error:
        if args.calibration:
            raise
        raise UserError(
            f"{error}: calibration images check the program: give the shards of then by "
            "--calibration"
        ) from None
    done = export_detector(args.detector, stored, member, calibration, args.out, args.format)
    print(
        f"{args.out}: labels of {done.checked:,} calibration images equal, {done.near:,} of them "
        f"next to the threshold; scores off by {done.error:.0e} at most, through {done.reader} in "
        "a fresh process; load it with"
    )
    print("\n".join(f"  {line}" for line in done.code.splitlines()))
