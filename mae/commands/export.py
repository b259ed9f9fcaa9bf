"""`mae export`."""

import argparse

from mae.commands.images import require_mae
from mae.export.timm import export_timm
from mae.training.run import load_pretrained


def export(args: argparse.Namespace) -> None:
    """`mae export`."""
    config, model, position = load_pretrained(args.run)
    export_timm(config, require_mae(model), position, args.out)
    print(f"{args.out}: the encoder of step {position.step:,}, checked through timm; load it with")
    print(f'  timm.create_model("local-dir:{args.out}", pretrained=True, num_classes=…)')
