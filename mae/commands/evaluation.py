"""Evaluations of frozen features: `mae features`, `knn`, `probe`, `fewshot`."""

import argparse
from pathlib import Path
from typing import Any

from mae.base.device import choose_device
from mae.base.errors import UserError
from mae.base.exit_status import DONE
from mae.commands.reports import finish, say
from mae.commands.trained_probes import probe_mae
from mae.data.training_data import open_images
from mae.evaluation.encoders import open_encoder
from mae.evaluation.feature_cache import FOLDER, SUFFIX, copy_features, write_features
from mae.evaluation.features import BATCH, encoder_outputs, missing_features
from mae.evaluation.features_file import read_features
from mae.evaluation.knn import knn_report
from mae.evaluation.probe_report import fewshot_report, probe_report
from mae.evaluation.results import table
from mae.evaluation.sources import Comparison, open_sources, results_folder
from mae.objectives.registry import declaration

SPLITS = 5
ONLY = {
    "fast": ("per_class", "splits", "batch_size"),
    "mae": ("epochs", "step_batch", "blr", "warmup_epochs", "device_batch"),
}
"""options of `mae probe` that belong to one of its protocols; unset: None, or empty"""


def features(args: argparse.Namespace) -> None:
    """`mae features`."""
    if args.out.suffix != SUFFIX:
        raise UserError(f"--out: {args.out} must end in {SUFFIX}")
    if args.out.exists():
        raise UserError(f"--out: {args.out} exists; nothing is overwritten")
    device = choose_device(args.device)
    opened = open_encoder(args.run)
    encoder, module = opened.encoder, opened.module.to(device).eval()
    has = encoder_outputs(module, encoder.encode, encoder.img_size, opened.config, device)
    if args.tokens and not has.patch_size:
        raise missing_features(args.run, opened.objective, "patch tokens", "features --tokens")
    if not (args.tokens or has.vectors):
        raise missing_features(args.run, opened.objective, "pooled features", "features")
    images, cache = open_images(args.shards, "shards", opened.config), results_folder(args.run)
    asked: dict[str, Any] = {"tokens": args.tokens, "step": opened.step, "log": say}
    if not copy_features(encoder, images, cache / FOLDER, args.out, **asked):
        write_features(
            encoder,
            images,
            args.out,
            device=device,
            batch_size=args.batch_size or BATCH,
            workers=args.workers,
            max_bad=opened.config.data.max_bad,
            **asked,
        )
    for name, vectors in (found := read_features(args.out)).vectors.items():
        print(f"{name:8}{list(vectors.shape)} float16")
    print(f"{args.out}: {len(found.labels):,} images, {(found.labels >= 0).sum():,} labelled")


def knn(args: argparse.Namespace) -> None:
    """`mae knn`."""
    compared = _open(args)
    report = knn_report(compared.subjects, k=args.k, temperature=args.temperature, seed=args.seed)
    _finish(args, compared, report)
    print(report["measures"])


def probe(args: argparse.Namespace) -> int:
    """`mae probe`."""
    for protocol, names in ONLY.items():
        for name in names if protocol != args.protocol else ():
            if getattr(args, name) not in (None, []):
                raise UserError(f"--{name.replace('_', '-')}: only for --protocol {protocol}")
    if args.protocol == "mae":
        return probe_mae(args)
    compared = _open(args)
    budgets, splits = (None, *args.per_class), args.splits or SPLITS
    report = probe_report(compared.subjects, budgets=budgets, splits=splits, seed=args.seed)
    _finish(args, compared, report)
    return DONE


def fewshot(args: argparse.Namespace) -> None:
    """`mae fewshot`."""
    if not args.shots and not args.percent:
        raise UserError("--shots, --percent: give one of them at least")
    compared = _open(args)
    report = fewshot_report(
        compared.subjects,
        shots=args.shots,
        percents=args.percent,
        splits=args.splits or SPLITS,
        seed=args.seed,
    )
    _finish(args, compared, report)


def _open(args: argparse.Namespace) -> Comparison:
    return open_sources(
        args.run,
        args.train,
        args.test,
        command=args.command,
        baselines=args.baselines,
        classes=args.classes,
        out=args.out,
        device=choose_device(args.device),
        batch_size=args.batch_size or BATCH,
        workers=args.workers,
        log=say,
    )


def _finish(args: argparse.Namespace, compared: Comparison, report: dict[str, Any]) -> None:
    if compared.objective:
        own = declaration(compared.objective).evaluation_notes
        report["measures"] = own.get(args.command, report["measures"])
    folder = results_folder(args.run) if args.run else Path(args.test[0]).parent
    out = args.out or folder / f"{args.command}.json"
    told = table(args.command, report)
    finish(args, out, report, told, step=compared.step, seen=compared.seen)
