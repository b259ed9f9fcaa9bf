"""`mae export`: the model of a run for timm, transformers, ONNX and others."""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mae.commands.argument_types import positive
from mae.commands.options import (
    IMAGES,
    add_command,
    run_argument,
    run_cache_options,
    weight_options,
    with_own_cache,
)
from mae.objectives.registry import OBJECTIVES, declaration

if TYPE_CHECKING:
    from torch import Tensor

    from mae.commands.numbered_images import NumberedImages
    from mae.config.sections import Config

COUNT = 8
"""maximum number of images that an export is checked on"""
FILES = 100
"""maximum number of files of a folder that are searched for COUNT usable images"""
NOISE = "noise"
"""value of --images for random images"""
GRAPHS = ("onnx", "torch")
"""formats without a decoder, of any LayerNorm epsilon"""
SHARED = {
    "timm": 'for timm.create_model("local-dir:OUT")',
    "onnx": "a graph for onnxruntime and others",
    "torch": "a program of torch.export",
    "plain": "all weights and the settings, for mae itself",
}
"""formats of objectives with an encoder of timm's; the last one of any objective"""


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "export",
        "write the model of a run for timm, ONNX and others, checked",
        run,
        epilog="The export is loaded again by the library it is for, in a fresh process, and its "
        "outputs are compared with the model's.",
    )
    run_argument(parser, reads_decoder=True)
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--format", metavar="FORMAT", help=describe_formats())
    parser.add_argument(
        "--pool",
        choices=["token", "avg"],
        help="vector for an image: the class token, or the mean of the patch tokens (formats timm, "
        "onnx, torch; default: the class token where there is one)",
    )
    parser.add_argument(
        "--img-size",
        type=size,
        metavar="H[,W]",
        help="image size of the export, positions interpolated as timm does (default: the run's)",
    )
    parser.add_argument(
        "--decoder",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="include the decoder, where the format has a place for it",
    )
    parser.add_argument(
        "--images",
        nargs="+",
        help=f"{IMAGES}, to check the export on; or the word {NOISE} (default: the run's)",
    )
    run_cache_options(parser)
    parser.add_argument(
        "--push",
        metavar="NAME/REPO",
        help="upload the export to this repository of the Hugging Face hub, private if new",
    )


def describe_formats() -> str:
    """Help text on all formats, those of every objective included."""
    formats = [f"{name}: {text}" for name, text in SHARED.items()]
    for objective in map(declaration, OBJECTIVES):
        formats += [f"{name}: {text}" for name, text in objective.exports.items()]
    default = "timm for encoders of timm's, else the first that the objective adds, else plain"
    return f"{'; '.join(formats)} (default: {default})"


def size(text: str) -> tuple[int, int]:
    """Height and width in pixels: 256 or 256,192."""
    height, comma, width = text.partition(",")
    return positive(height), positive(width if comma else height)


def run(args: argparse.Namespace) -> None:
    """Write the export, check it, print how to load it; upload it with --push."""
    from mae.base.errors import UserError
    from mae.base.output import print_error
    from mae.export.card import CardFacts, read_facts
    from mae.export.contract import ExportRequest, choose_pool, resize
    from mae.export.folder import (
        available_formats,
        check_push,
        export_folder,
        push,
        select_writer,
    )
    from mae.objectives.registry import implementation
    from mae.pretrained_weights.opened import is_run, log_lines, model_classes, open_model
    from mae.training.checkpoint.checkpoint_files import TrainingState
    from mae.training.checkpoint.run import find_run

    if args.push:
        check_push(args.push)
    is_graph = args.format in GRAPHS
    opened = open_model(
        args.run,
        weight_options(args),
        with_decoder=args.decoder and not is_graph,
        keep_eps=is_graph,
    )
    log_lines(opened, print_error)
    config, model, own = opened.config, opened.objective, implementation(opened.config.objective)
    if args.format == "plain" and not opened.has_decoder:
        raise UserError("--format plain: is for whole models; these weights have no decoder")
    write = select_writer(args.format, available_formats(model, own), config.objective)
    pool = choose_pool(model, own, args.pool)
    trained_size = model.img_size
    if args.img_size:
        config = resize(config, model, own, args.img_size)
    images, photograph, checked_on = check_images(
        args.images, with_own_cache(config, args), model.img_size
    )
    given = {"--pool": args.pool is not None, "--no-decoder": not args.decoder}
    request = ExportRequest(
        config=config,
        model=model,
        state=opened.state or TrainingState(0, 0, ""),
        pool=pool,
        decoder=args.decoder and opened.has_decoder,
        trained_size=trained_size,
        classes=model_classes(opened, args.run),
        options=frozenset(option for option, is_given in given.items() if is_given),
        photograph=photograph,
    )
    facts = CardFacts(None, [], opened.init, is_adopted=True)
    if opened.state:
        facts = read_facts(find_run(args.run), opened.state, declaration(config.objective))
        facts = facts if is_run(args.run) else facts._replace(init=facts.init | opened.init)
    done = export_folder(
        write, request, images, facts, checked_on=checked_on, out=args.out, repo_id=args.push
    )
    for line in done.remarks:
        print(line)
    off = f"off by {done.max_error:.0e} at most" if done.max_error else "equal to the last bit"
    origin = str(args.run) if opened.step is None else f"step {opened.step:,}"
    print(
        f"{args.out}: the {done.part} of {origin}, checked through {done.reader} on {checked_on} "
        f"({off}); load it with"
    )
    print("\n".join(f"  {line}" for line in done.code.splitlines()))
    if args.push:
        print(push(args.out, args.push))


class CheckImages(NamedTuple):
    """Images to check an export on."""

    images: Tensor
    """centred views, [b c h w], raw integers or normalised floats"""
    photograph: Tensor
    """one image [c h w] as stored, for the check of the printed code"""
    description: str


def check_images(
    chosen: list[str] | None, config: Config, img_size: tuple[int, int]
) -> CheckImages:
    """Read the images that an export is checked on.

    Default: the first of the run's held-out or training images, from remote shards only where none
    are on this machine; of a folder without a packed copy the files themselves.  Raises UserError
    where these, or the chosen ones, cannot be read.
    """
    from mae.base.errors import UserError
    from mae.commands.numbered_images import load_images, open_numbered
    from mae.storage.remote import is_remote

    if chosen == [NOISE]:
        images = noise(config, img_size)
        return CheckImages(images, as_stored(images[0], config), f"{NOISE} (--images {NOISE})")
    if chosen:
        images, _, first, *_ = load_images(open_numbered(chosen, config, img_size), img_size, COUNT)
        first = as_stored(first, config)
        return CheckImages(images, first, f"{len(images)} images of {' '.join(chosen)}")
    data = config.data
    sets = [("data.val", data.held_out), ("data.train", data.train)]
    sets += [(f"data.mixture.{i}", part.shards) for i, part in enumerate(data.mixture)]
    if not any(patterns for _, patterns in sets):
        raise UserError(
            "--images: these weights name no images of their training: give some to check the "
            f"export on, or --images {NOISE}"
        )
    reasons = []
    for key, patterns in sorted(sets, key=lambda one: any(map(is_remote, one[1]))):
        if not patterns:
            continue
        try:
            found = own_images(patterns[0], key, config, img_size)
            images, _, photograph, *_ = load_images(found, img_size, COUNT)
        except UserError as error:  # moved or deleted since, or out of reach
            reasons.append(str(error))
            continue
        photograph = as_stored(photograph, config)
        return CheckImages(images, photograph, f"{len(images)} images of the run's {key}")
    raise UserError(
        f"--images: none of the run's own can be read ({'; '.join(reasons)}): give some to check "
        f"the export on, or --images {NOISE}"
    )


def own_images(pattern: str, key: str, config: Config, img_size: tuple[int, int]) -> NumberedImages:
    """Images of one of a run's shards or folders, the value of `key`; packs nothing."""
    from mae.commands.numbered_images import FileImages, open_numbered
    from mae.data.shards import expand_shards
    from mae.pack.packed_folders import is_folder, is_packed, list_images, with_packed_folders

    data = config.data
    if is_folder(pattern) and not is_packed(pattern, key, data):
        listing = list_images(pattern, key)
        names = islice(listing.sources.references, FILES)
        return FileImages([Path(listing.name, name) for name in names], config)
    # One shard: more would mean downloads, or hours of indexing, for a few images.
    shards = with_packed_folders([pattern], key, data)
    return open_numbered(expand_shards(shards, key, data.allow_pipe)[:1], config, img_size)


def as_stored(image: Tensor, config: Config) -> Tensor:
    """Image [c h w] as its file holds it: floats without their normalisation."""
    from mae.data.images import float_normalisation

    return float_normalisation(config.data).undo(image)


def noise(config: Config, img_size: tuple[int, int]) -> Tensor:
    """Random images [b c h w] of the run's channels and bits; the same in each call."""
    import torch

    data = config.data
    generator = torch.Generator().manual_seed(0)
    shape = (COUNT, data.in_chans, *img_size)
    if data.is_float:
        return torch.randn(shape, generator=generator)
    images = torch.randint(0, 2**data.bits, shape, generator=generator, dtype=torch.int32)
    return images.to(torch.uint8 if data.bits == 8 else torch.uint16)
