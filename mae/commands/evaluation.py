"""The commands that judge an encoder: `mae probe`."""

import argparse
import sys

from mae.data.training_data import open_images
from mae.device import choose_device
from mae.evaluation.linear_probe import probe_report, probe_table
from mae.results import write_json
from mae.training.run import build_objective, load_pretrained


def probe(args: argparse.Namespace) -> None:
    """`mae probe`."""
    config, objective, position = load_pretrained(args.run)
    report = probe_report(
        config,
        objective,
        build_objective(config) if args.baselines else None,
        open_images(args.train, "--train", config),
        open_images(args.test, "--test", config),
        budgets=(None, *args.per_class),
        splits=args.splits,
        seed=args.seed,
        device=choose_device(args.device),
        workers=args.workers,
        say=lambda text: print(text, file=sys.stderr),
    )
    out = args.out or args.run / "probe.json"
    write_json(out, {"run": str(args.run), "step": position.step, **report})
    print(probe_table(report))
    print(out)
