"""The commands that judge frozen features: `mae features`, `knn`, `probe`, `fewshot`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from mae.commands.trained_probes import probe_mae
from mae.data.training_data import open_images
from mae.device import choose_device
from mae.errors import UserError
from mae.evaluation.encoders import open_encoder
from mae.evaluation.feature_cache import write_features
from mae.evaluation.features_file import read_features
from mae.evaluation.fewshot import fewshot_report
from mae.evaluation.knn_report import SMOKE, knn_report
from mae.evaluation.linear_probe import probe_report
from mae.evaluation.protocol import table
from mae.evaluation.sources import SUFFIX, Compared, open_sources
from mae.results import write_json
from mae.training.run import run_of


def features(args: argparse.Namespace) -> None:
    """`mae features`."""
    if args.out.suffix != SUFFIX:
        raise UserError(f"--out: {args.out} must end in {SUFFIX}")
    if args.out.exists():
        raise UserError(f"--out: {args.out} exists; nothing is overwritten")
    device = choose_device(args.device)
    opened = open_encoder(args.run)
    opened.module.to(device).eval()
    write_features(
        opened.encoder,
        open_images(args.shards, "shards", opened.config),
        args.out,
        tokens=args.tokens,
        device=device,
        batch_size=args.batch_size,
        workers=args.workers,
        max_bad=opened.config.data.max_bad,
        step=opened.step,
        say=_say,
    )
    for name, vectors in (found := read_features(args.out)).vectors.items():
        print(f"{name:8}{list(vectors.shape)} float16")
    print(f"{args.out}: {len(found.labels):,} images, {(found.labels >= 0).sum():,} labelled")


def knn(args: argparse.Namespace) -> None:
    """`mae knn`."""
    compared = _open(args)
    report = knn_report(compared.subjects, k=args.k, temperature=args.temperature, seed=args.seed)
    _finish(args, compared, report)
    print(SMOKE)


def probe(args: argparse.Namespace) -> None:
    """`mae probe`."""
    if args.protocol == "mae":
        probe_mae(args)
        return
    compared = _open(args)
    budgets = (None, *args.per_class)
    report = probe_report(compared.subjects, budgets=budgets, splits=args.splits, seed=args.seed)
    _finish(args, compared, report)


def fewshot(args: argparse.Namespace) -> None:
    """`mae fewshot`."""
    if not args.shots and not args.percent:
        raise UserError("--shots, --percent: give one of them at least")
    compared = _open(args)
    report = fewshot_report(
        compared.subjects,
        shots=args.shots,
        percents=args.percent,
        splits=args.splits,
        seed=args.seed,
    )
    _finish(args, compared, report)


def _open(args: argparse.Namespace) -> Compared:
    return open_sources(
        args.run,
        args.train,
        args.test,
        baselines=args.baselines,
        classes=args.classes,
        device=choose_device(args.device),
        batch_size=args.batch_size,
        workers=args.workers,
        say=_say,
    )


def _finish(args: argparse.Namespace, compared: Compared, report: dict[str, Any]) -> None:
    """Write the JSON, print the table."""
    folder = run_of(args.run).folder if args.run else Path(args.test[0]).parent
    out = args.out or folder / f"{args.command}.json"
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(args).items()
        if name not in ("command", "module")
    }
    head = {"command": args.command, "run": str(args.run), "step": compared.step}
    write_json(out, {**head, "settings": settings, "test_images_in_train": compared.seen, **report})
    print(table(args.command, report))
    print(f"{report['test_images']:,} test images; {out} tells what was done, and how")


def _say(text: str) -> None:
    print(text, file=sys.stderr)
