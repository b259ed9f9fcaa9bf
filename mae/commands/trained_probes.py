"""The evaluations that train a head: `mae attentive`, `segment`, `probe --protocol mae`."""

import argparse
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from mae.commands.reports import finish, say
from mae.data.images import Images
from mae.data.training_data import open_images
from mae.device import choose_device
from mae.errors import UserError
from mae.evaluation.attentive import LEAST_STEPS, AttentiveRecipe, epochs_for
from mae.evaluation.attentive_report import TokenSubject, attentive_report
from mae.evaluation.attentive_tokens import CachedTokens, EncodedTokens, Tokens, token_bytes
from mae.evaluation.encoders import FrozenEncoder, Opened, open_encoder
from mae.evaluation.feature_cache import FOLDER, features_of, identity, made_before
from mae.evaluation.labels import check_labels, of_manifest
from mae.evaluation.mae_probe import ProbeRecipe
from mae.evaluation.mae_probe_report import mae_linear_probe
from mae.evaluation.mae_probe_state import forget_state
from mae.evaluation.protocol import LEARNT, saying
from mae.evaluation.segmentation_report import segmentation_report, segmentation_table
from mae.evaluation.sources import results_folder, seen_in_train
from mae.evaluation.tables import table

ON_DISK = 0.9
"""share of the free space that cached tokens may take"""


class Given(NamedTuple):
    """What the command line names."""

    opened: Opened
    encoders: dict[str, FrozenEncoder]
    """by name: that of the folder first, then with --baselines the untrained"""
    train: Images
    test: Images
    seen: int
    """test images that are, byte for byte, in train"""
    folder: Path
    """where the results go"""


def attentive(args: argparse.Namespace) -> None:
    """`mae attentive`."""
    given = _open(args)
    check_labels(of_manifest(given.train.manifest), of_manifest(given.test.manifest))
    patch_size_of(given.opened.module)
    is_cached = _fits(args, given)

    def tokens_of(name: str, images: Images) -> Tokens:
        encoder, device = given.encoders[name], choose_device(args.device)
        max_bad = given.opened.config.data.max_bad
        if not is_cached and _cached(given, encoder, images) is None:
            return EncodedTokens(encoder, images, device, args.workers, max_bad)
        found = features_of(
            encoder,
            images,
            given.folder / FOLDER,
            tokens=True,
            device=device,
            workers=args.workers,
            max_bad=max_bad,
            step=given.opened.step if name in LEARNT else None,
            say=saying(say, name),
        )
        return CachedTokens(found, device)

    subjects = [
        TokenSubject(name, tokens_of(name, given.train), tokens_of(name, given.test))
        for name in given.encoders
    ]
    epochs = args.epochs or epochs_for(len(given.train.manifest), args.batch_size)
    report = attentive_report(
        subjects,
        identity(given.opened.encoder, given.train),
        given.train,
        given.test,
        AttentiveRecipe(epochs, args.batch_size, args.seed),
        device=choose_device(args.device),
        say=say,
    )
    report["recipe"]["tokens"] = "cached" if is_cached else "encoded each epoch"
    report["recipe"]["least_steps"] = None if args.epochs else LEAST_STEPS
    _finish(args, given, report, table("attentive", report))


def _cached(given: Given, encoder: FrozenEncoder, images: Images) -> Path | None:
    """A file of all tokens, made before."""
    return made_before(given.folder / FOLDER, identity(encoder, images), tokens=True)


def _fits(args: argparse.Namespace, given: Given) -> bool:
    """The tokens that are not kept yet may be; tells where not."""
    needed = sum(
        token_bytes(encoder, images, choose_device(args.device))
        for encoder in given.encoders.values()
        for images in (given.train, given.test)
        if _cached(given, encoder, images) is None
    )
    existing = next(p for p in (given.folder, *given.folder.absolute().parents) if p.exists())
    if needed <= min(args.token_gb * 1e9, ON_DISK * shutil.disk_usage(existing).free):
        return True
    say(f"{needed / 1e9:,.3g} GB of tokens: not kept, but encoded anew in every epoch")
    return False


def segment(args: argparse.Namespace) -> None:
    """`mae segment`."""
    given = _open(args)
    report = segmentation_report(
        given.encoders,
        patch_size_of(given.opened.module),
        given.train,
        given.test,
        patches=args.patches,
        seed=args.seed,
        max_bad=given.opened.config.data.max_bad,
        device=choose_device(args.device),
        workers=args.workers,
        say=say,
    )
    _finish(args, given, report, segmentation_table(report))


def probe_mae(args: argparse.Namespace) -> None:
    """`mae probe --protocol mae`."""
    if args.run is None:
        raise UserError("--protocol mae: needs RUN, as every epoch encodes new crops")
    given, defaults = _open(args), ProbeRecipe()
    kept = {name: f"probe-mae{'' if name in LEARNT else f'-{name}'}" for name in given.encoders}
    folders = {name: given.folder / kept[name] for name in given.encoders}
    report = mae_linear_probe(
        given.opened.config,
        given.encoders,
        given.train,
        given.test,
        ProbeRecipe(
            epochs=args.epochs or defaults.epochs,
            batch_size=args.step_batch,
            blr=args.blr or defaults.blr,
            warmup_epochs=args.warmup_epochs,
            device_batch=args.device_batch or defaults.device_batch,
            seed=args.seed,
        ),
        classes=args.classes,
        folders=folders,
        device=choose_device(args.device),
        workers=args.workers,
        say=say,
    )
    _finish(args, given, report, table("probe, protocol mae", report), "probe-mae")
    for folder in folders.values():
        forget_state(folder)


def patch_size_of(module: nn.Module) -> tuple[int, int]:
    """Height and width of a patch in pixels; UserError for encoders without patch tokens."""
    embedding: Any = getattr(getattr(module, "encoder", module), "patch_embed", None)
    if embedding is None:
        raise UserError("this encoder has no patch tokens")
    height, width = embedding.patch_size
    return height, width


def _open(args: argparse.Namespace) -> Given:
    opened, device = open_encoder(args.run), choose_device(args.device)
    opened.module.to(device).eval()
    encoders = {opened.encoder.name: opened.encoder}
    if args.baselines:
        module, fresh = opened.untrained()
        encoders[fresh.name] = fresh
        module.to(device).eval()
    train = open_images(args.train, "--train", opened.config)
    test = open_images(args.test, "--test", opened.config)
    seen = seen_in_train(train.manifest, test.manifest, say)
    return Given(opened, encoders, train, test, seen, results_folder(args.run, args.out))


def _finish(
    args: argparse.Namespace, given: Given, report: dict[str, Any], told: str, name: str = ""
) -> None:
    out = args.out or given.folder / f"{name or args.command}.json"
    finish(args, out, report, told, step=given.opened.step, seen=given.seen)
