"""The evaluations that train a head: `mae attentive`, `segment`, `probe --protocol mae`."""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from torch import nn

from mae.data.images import Images
from mae.data.training_data import open_images
from mae.device import choose_device
from mae.errors import UserError
from mae.evaluation.attentive import AttentiveRecipe, attentive_probe, attentive_table
from mae.evaluation.attentive_tokens import CachedTokens, EncodedTokens, Tokens, token_bytes
from mae.evaluation.encoders import TOKENS, Opened, open_encoder
from mae.evaluation.feature_cache import FOLDER, features_of
from mae.evaluation.mae_probe import ProbeRecipe
from mae.evaluation.mae_probe_report import mae_linear_probe, mae_probe_table
from mae.evaluation.segmentation import segmentation_report, segmentation_table
from mae.evaluation.trained_record import number_classes, provenance
from mae.results import write_json
from mae.training.run import run_of

ON_DISK = 0.9
"""share of the free space that cached tokens may take"""


def attentive(args: argparse.Namespace) -> None:
    """`mae attentive`."""
    opened, train, test = _open(args)
    numbers = number_classes(train.manifest, test.manifest)
    _, device = patch_size_of(opened.module), choose_device(args.device)
    needed = sum(token_bytes(opened.encoder, images, device) for images in (train, test))
    room = min(args.token_gb * 1e9, ON_DISK * shutil.disk_usage(args.run).free)
    is_cached = needed <= room
    if not is_cached:
        _say(f"{needed / 1e9:,.3g} GB of tokens: not kept, but encoded anew in every epoch")

    def tokens_of(images: Images) -> Tokens:
        if not is_cached:
            return EncodedTokens(opened.encoder, images, device, args.workers)
        found = features_of(
            opened.encoder,
            images,
            run_of(args.run).folder / FOLDER,
            tokens=True,
            device=device,
            workers=args.workers,
            max_bad=opened.config.data.max_bad,
            say=_say,
        )
        return CachedTokens(found, device)

    fitted, tested = tokens_of(train), tokens_of(test)
    report = attentive_probe(
        fitted,
        numbers.train[fitted.samples],
        tested,
        numbers.test[tested.samples],
        AttentiveRecipe(args.epochs, args.batch_size, args.seed),
        device=device,
        say=_say,
    )
    report["settings"][TOKENS] = "cached" if is_cached else "encoded each epoch"
    report = {**report, **provenance(opened.encoder, train, test)}
    _finish(args, opened, report, attentive_table(report))


def segment(args: argparse.Namespace) -> None:
    """`mae segment`."""
    opened, train, test = _open(args)
    report = segmentation_report(
        opened.encoder,
        patch_size_of(opened.module),
        train,
        test,
        patches=args.patches,
        seed=args.seed,
        device=choose_device(args.device),
        workers=args.workers,
        say=_say,
    )
    report = {**report, **provenance(opened.encoder, train, test)}
    _finish(args, opened, report, segmentation_table(report))


def probe_mae(args: argparse.Namespace) -> None:
    """`mae probe --protocol mae`."""
    if args.run is None:
        raise UserError("--protocol mae: needs RUN, as every epoch encodes new crops")
    for option, is_set in (("--baselines", args.baselines), ("--per-class", args.per_class)):
        if is_set:
            raise UserError(f"{option}: only for --protocol fast")
    opened, train, test = _open(args)
    if (
        args.classes
        and (count := number_classes(train.manifest, test.manifest).count) != args.classes
    ):
        raise UserError(f"--train: {count} classes, not {args.classes} (--classes)")
    report = mae_linear_probe(
        opened.config,
        opened.encoder,
        train,
        test,
        ProbeRecipe(
            epochs=args.epochs,
            batch_size=args.step_batch,
            blr=args.blr,
            warmup_epochs=args.warmup_epochs,
            device_batch=args.device_batch,
            seed=args.seed,
        ),
        folder=run_of(args.run).folder / _name(args),
        device=choose_device(args.device),
        workers=args.workers,
        say=_say,
    )
    _finish(args, opened, report, mae_probe_table(report))


def patch_size_of(module: nn.Module) -> tuple[int, int]:
    """Height and width of a patch in pixels; UserError for encoders without patch tokens."""
    embedding: Any = getattr(getattr(module, "encoder", module), "patch_embed", None)
    if embedding is None:
        raise UserError("this encoder has no patch tokens")
    height, width = embedding.patch_size
    return height, width


def _open(args: argparse.Namespace) -> tuple[Opened, Images, Images]:
    opened = open_encoder(args.run)
    if args.untrained:
        module, encoder = opened.untrained()
        opened = opened._replace(module=module, encoder=encoder, step=0)
    opened.module.to(choose_device(args.device)).eval()
    train = open_images(args.train, "--train", opened.config)
    return opened, train, open_images(args.test, "--test", opened.config)


def _finish(args: argparse.Namespace, opened: Opened, report: dict[str, Any], table: str) -> None:
    """Write the JSON, print the table."""
    out: Path = args.out or run_of(args.run).folder / f"{_name(args)}.json"
    given = {"train": args.train, "test": args.test, "workers": args.workers}
    head = {"command": args.command, "run": str(args.run), "step": opened.step}
    write_json(out, {**head, "untrained": args.untrained, "given": given, **report})
    if args.untrained:
        print("the same encoder, untrained:")
    print(table)
    print(out)


def _name(args: argparse.Namespace) -> str:
    """Of what the command leaves in the run's folder."""
    name = "probe-mae" if args.command == "probe" else args.command
    return f"{name}-untrained" if args.untrained else name


def _say(text: str) -> None:
    print(text, file=sys.stderr)
