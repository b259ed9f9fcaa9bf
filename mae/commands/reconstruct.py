"""`mae reconstruct`: reconstructions beside the originals, and their quality."""

import argparse
from typing import Any

from mae.commands.options import add_command, picture_options, positive, seed_option, share

COLUMNS = (
    "original",
    "masked",
    "input",
    "reconstruction",
    "denoised",
    "raw",
    "error",
    "codes",
)


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "reconstruct",
        "picture of reconstructions, with R² or PSNR",
        run,
        epilog="R² is measured on hidden patches; PSNR where the objective hides nothing. The "
        "numbers go to a JSON file beside the picture.",
    )
    picture_options(parser, "reconstruction", reads_decoder=True)
    parser.add_argument(
        "--mask",
        metavar="PATTERN",
        help="which patches are hidden, for objectives that hide any: random (default), block, "
        "grid (one patch of four stays visible), or a PNG stretched over the image, white = hidden",
    )
    parser.add_argument(
        "--mask-ratio",
        type=share,
        nargs="+",
        default=[],
        metavar="SHARE",
        help="fraction of patches to hide; several are drawn side by side (default: the run's)",
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        choices=COLUMNS,
        metavar="COLUMN",
        help=f"columns of the picture, from {', '.join(COLUMNS)} (default: all that the objective "
        "has; with several mask ratios original, masked, reconstruction)",
    )
    parser.add_argument(
        "--measured",
        "--r2-images",
        type=positive,
        default=512,
        metavar="IMAGES",
        help="maximum number of images that R² or PSNR is measured on",
    )
    seed_option(parser, "random seed of the masks or other noise")


def run(args: argparse.Namespace) -> None:
    """Write the picture and its JSON file; print the quality."""
    import torch

    from mae.base.errors import UserError
    from mae.base.files import write_json
    from mae.base.hashing import Stream, fold
    from mae.base.tensor_hashing import as_tensor
    from mae.commands.pictures import open_picture_source, picture_path, write_sheet
    from mae.objectives import registry
    from mae.pictures.reconstruction import ReconstructionRequest, reconstruct

    out = picture_path(args, "reconstruction")
    source = open_picture_source(args, "reconstructions", with_decoder=True)
    objective, name = source.objective, source.config.objective
    if not hasattr(objective, "reconstruct"):
        raise source.lacking("reconstructions")
    if not source.opened.has_decoder:
        raise UserError(
            f"{args.run}: holds no decoder, which reconstructions need: give weights with one (of "
            "the paper's release, mae_visualize_vit_*.pth and mae_pretrain_vit_*_full.pth)"
        )
    images, names, _ = source.load(max(args.count, args.measured))
    seeds = as_tensor(fold(args.seed, Stream.PANEL, torch.arange(len(images)).numpy()))
    request = ReconstructionRequest(
        images=images,
        names=names,
        seeds=seeds.to(images.device),
        count=args.count,
        measured=args.measured,
        title=source.title,
        objective=name,
        mask=args.mask,
        mask_ratios=args.mask_ratio,
        columns=args.columns or (),
    )
    own = registry.implementation(name).reconstruct(objective, request)
    made = own or reconstruct(objective, request)
    write_sheet(made.sheet, out)
    lines = list(source.opened.lines)
    weights = {"weights": lines} if lines else {}
    write_json(out.with_suffix(".json"), {"step": source.opened.step, **weights, **made.figures})
    print("\n".join([*made.lines, str(out)]))
