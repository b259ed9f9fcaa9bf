"""The evaluations that train a head: `mae attentive`, `segment`, `probe --protocol mae`."""

import argparse
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn

from mae.base.device import choose_device
from mae.base.errors import UserError
from mae.commands import reports
from mae.commands.reports import finish
from mae.config.sections import Config
from mae.data.images import Images
from mae.data.training_data import TrainingSource, open_images
from mae.evaluation.encoders import FrozenEncoder, LoadedEncoder, open_encoder
from mae.evaluation.features import encoder_outputs, missing_features
from mae.evaluation.probing import ProbeRequest, claim_folder, on_first
from mae.evaluation.results import table
from mae.evaluation.segmentation_report import segmentation_report, segmentation_table
from mae.evaluation.sources import results_folder, seen_in_train
from mae.objectives.base import Objective
from mae.objectives.registry import declarations, implementation
from mae.training.plan import planned
from mae.training.start import Ending
from mae.training.train import leave_processes, train

PATIENCE = timedelta(hours=12)
"""that processes wait for the first, which encodes what is kept and tests alone"""


NEED_PATCHES = ("attentive", "segment")
"""commands that read patch tokens"""


class Given(NamedTuple):
    """The encoders and images that the command line names."""

    opened: LoadedEncoder
    encoders: dict[str, FrozenEncoder]
    """by name: that of the folder first, then with --baselines the untrained"""
    modules: dict[str, nn.Module]
    """that they consist of, on the CPU"""
    train: Images
    test: Images
    seen: int
    """test images that are, byte for byte, in train"""
    folder: Path
    """where the results go"""
    patch_size: tuple[int, int] | None
    """of the patch tokens, in pixels; None: the encoder has none"""


def attentive(args: argparse.Namespace) -> int:
    """`mae attentive`."""
    return _probe("mae attentive", args, "attentive", "attentive")


def probe_mae(args: argparse.Namespace) -> int:
    """`mae probe --protocol mae`."""
    if args.run is None:
        raise UserError("--protocol mae: needs RUN, as every epoch encodes new crops")
    return _probe("mae probe", args, "probe, protocol mae", "probe-mae")


def segment(args: argparse.Namespace) -> None:
    """`mae segment`."""
    given, device = _open(args, reports.say), choose_device(args.device)
    assert given.patch_size is not None
    for module in given.modules.values():
        module.to(device)
    report = segmentation_report(
        given.encoders,
        given.patch_size,
        given.train,
        given.test,
        patches=args.patches,
        seed=args.seed,
        max_bad=given.opened.config.data.max_bad,
        device=device,
        workers=args.workers,
        log=reports.say,
    )
    out = args.out or given.folder / "segment.json"
    finish(args, out, report, segmentation_table(report), step=given.opened.step, seen=given.seen)


def _probe(command: str, args: argparse.Namespace, title: str, name: str) -> int:
    """Train and test the objective that `command` trains; the exit code.

    On as many processes as were launched; the first tests, writes and prints.
    """
    ending = Ending()

    def work() -> None:
        _refuse_sharding(command)
        (declared,) = declarations(command)
        use_cpu = _asks_for_cpu(args.device)
        processes = PartialState(cpu=use_cpu, timeout=PATIENCE)
        is_main = processes.is_main_process
        say = reports.say if is_main else _say_nothing
        with processes.main_process_first():  # the first to come writes the indexes
            given = _open(args, say)

        def fit(
            config: Config, source: TrainingSource | None = None, followed_by: Path | None = None
        ) -> Objective:
            manifest = source.manifest if source else given.train.manifest
            on_first(lambda: claim_folder(config, manifest, followed_by, say), is_main, _share)
            objective = train(config, ending, source=source, use_cpu=use_cpu)
            ending.end_run()
            return objective

        report = implementation(declared.name).probe(
            ProbeRequest(
                options=args,
                opened=given.opened,
                encoders=given.encoders,
                modules=given.modules,
                train=given.train,
                test=given.test,
                folder=given.folder,
                device=str(processes.device),
                num_processes=processes.num_processes,
                is_main=is_main,
                fit=fit,
                plan=planned,
                share=_share,
                log=say,
            )
        )
        leave_processes()
        if is_main:
            _finish(args, given, report, title, name)

    return ending.exit_code(work)


def _share(own: Any) -> Any:
    """The first process's value, on all of them."""
    return broadcast_object_list([own])[0]


def _refuse_sharding(command: str) -> None:
    """UserError where the launcher asks for sharded weights, which no process can test alone."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise UserError(f"{command}: a head is too small to be sharded: launch it without FSDP")


def _asks_for_cpu(device: str) -> bool:
    """--device of a command that trains; UserError for a single one of several GPUs."""
    if device not in ("auto", "cuda", "cpu"):
        choose_device(device)
        raise UserError(
            f"--device {device}: the launcher gives each process its GPU; choose among them by "
            "CUDA_VISIBLE_DEVICES"
        )
    if device == "cuda":
        choose_device(device)
    return device == "cpu" or not torch.cuda.is_available()


def _open(args: argparse.Namespace, say: Callable[[str], None]) -> Given:
    opened = open_encoder(args.run)
    module, encoder = opened.module.eval(), opened.encoder
    has = encoder_outputs(module, encoder.encode, encoder.img_size, opened.config)
    if args.command in NEED_PATCHES and has.patch_size is None:
        raise missing_features(args.run, opened.objective, "patch tokens", args.command)
    encoders, modules = {encoder.name: encoder}, {encoder.name: module}
    if args.baselines:
        fresh_module, fresh = opened.untrained()
        encoders[fresh.name], modules[fresh.name] = fresh, fresh_module.eval()
    train = open_images(args.train, "--train", opened.config)
    test = open_images(args.test, "--test", opened.config)
    seen = seen_in_train(train.manifest, test.manifest, say)
    folder = results_folder(args.run, args.out)
    return Given(opened, encoders, modules, train, test, seen, folder, has.patch_size)


def _finish(
    args: argparse.Namespace, given: Given, report: Mapping[str, Any], title: str, name: str
) -> None:
    out = args.out or given.folder / f"{name}.json"
    told = table(title, dict(report))
    finish(args, out, dict(report), told, step=given.opened.step, seen=given.seen)


def _say_nothing(text: str) -> None:
    """Print nothing, on all processes but the first."""
