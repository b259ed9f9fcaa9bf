"""Evaluations of frozen encoders: the encoder of RUN, labelled shards, the JSON file and table."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mae.base.device import choose_device, loader_count
from mae.base.files import write_json
from mae.base.portion import ALONE, Portion, launched_portion
from mae.commands.options import weight_options, with_own_cache
from mae.data.images import Images
from mae.data.opening import open_images
from mae.evaluation.comparison import (
    Comparison,
    open_sources,
    open_train_and_test,
    seen_in_train,
)
from mae.evaluation.encoders import open_encoder
from mae.evaluation.features import BATCH, encoder_outputs, missing_features
from mae.evaluation.probing import EncoderComparison
from mae.evaluation.results import table
from mae.evaluation.verdict import verdict
from mae.objectives.registry import declaration
from mae.pretrained_weights.opened import results_folder

NO_SETTINGS = ("command", "work", "part", "join")
"""arguments that no report records, since the results do not depend on them"""


def open_comparison(
    args: argparse.Namespace,
    log: Callable[[str], None],
    portion: Portion = ALONE,
    needs_tokens: bool = True,
    needs_labels: bool = True,
) -> EncoderComparison:
    """Open RUN (and the untrained encoder), --train and --test.

    Raises UserError where the encoder has no patch tokens but `needs_tokens`, or the two data sets
    have other classes but `needs_labels`.
    """
    opened = open_encoder(args.run, weight_options(args))
    opened = opened._replace(config=with_own_cache(opened.config, args))
    for line in opened.lines:
        log(f"weights {line}")
    module, encoder = opened.module.eval(), opened.encoder
    outputs = encoder_outputs(module, encoder.encode, encoder.img_size, opened.config)
    if needs_tokens and outputs.patch_size is None:
        raise missing_features(args.run, opened.objective, "patch tokens", args.command)
    encoders, modules = {encoder.name: encoder}, {encoder.name: module}
    if args.baselines:
        fresh_module, fresh = opened.untrained()
        encoders[fresh.name], modules[fresh.name] = fresh, fresh_module.eval()

    def open_data() -> tuple[Images, Images, str]:
        if needs_labels:
            return open_train_and_test(args.train, args.test, opened.config)
        train = open_images(args.train, "--train", opened.config)
        return train, open_images(args.test, "--test", opened.config), ""

    train, test, matched = portion.first_before_others(open_data)
    return EncoderComparison(
        opened=opened,
        encoders=encoders,
        modules=modules,
        train=train,
        test=test,
        seen=seen_in_train(train.manifest, test.manifest, log),
        folder=results_folder(args.run, args.out),
        patch_size=outputs.patch_size,
        matched=matched,
    )


def open_features(args: argparse.Namespace) -> Comparison:
    """Features that `feature_options` name: of shards through the cache, or of feature files.

    All processes of a launch encode; all but the first end here, by PartDone.
    """
    portion = launched_portion()
    compared = open_sources(
        args.run,
        args.train,
        args.test,
        command=args.command,
        baselines=args.baselines,
        classes=args.classes,
        read_with=lambda config: with_own_cache(config, args),
        out=args.out,
        device=choose_device(args.device),
        batch_size=args.batch_size or BATCH,
        workers=loader_count(args.workers),
        log=portion.log,
        options=weight_options(args),
        portion=portion,
    )
    portion.leave_to_first()
    return compared


def finish_features(args: argparse.Namespace, compared: Comparison, report: dict[str, Any]) -> None:
    """Write the report of an evaluation of features; print its table."""
    if compared.objective:
        own = declaration(compared.objective).evaluation_notes
        report["measures"] = own.get(args.command, report["measures"])
    report = with_notes(report, [compared.matched] * bool(compared.matched))
    folder = results_folder(args.run) if args.run else Path(args.test[0]).parent
    out = args.out or folder / f"{args.command}.json"
    shown = "\n".join(filter(None, [table(args.command, report), verdict(report)]))
    finish(
        args,
        out,
        report,
        shown,
        step=compared.step,
        seen=compared.seen,
        weights=compared.lines,
    )


def with_notes(report: Mapping[str, Any], notes: Sequence[str]) -> dict[str, Any]:
    """`report` with further notes."""
    return {**report, "notes": [*report.get("notes", ()), *notes]}


def finish(
    args: argparse.Namespace,
    out: Path,
    report: Mapping[str, Any],
    shown: str,
    *,
    step: int | None,
    seen: int | None,
    weights: Sequence[str] = (),
) -> None:
    """Write `report` to `out`, headed by the command and its options; print the table `shown`.

    `seen`: test images that are, byte for byte, in train; None where that is not known.
    `weights`: lines about weights of others.
    """
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(args).items()
        if name not in NO_SETTINGS and value is not None
    }
    head = {"command": args.command, "run": str(args.run), "step": step, "settings": settings}
    head |= {"weights": list(weights)} if weights else {}
    write_json(out, {**head, "test_images_in_train": seen, **report})
    print(shown)
    print(f"{report['test_images']:,} test images; details in {out}")
