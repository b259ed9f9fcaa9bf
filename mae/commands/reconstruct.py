"""`mae reconstruct`: reconstructions beside the originals, and their quality."""

import argparse
from pathlib import Path
from typing import Any

from mae.commands.argument_types import natural, positive, share
from mae.commands.options import add_command, picture_options, seed_option

COLUMNS = (
    "original",
    "masked",
    "input",
    "reconstruction",
    "denoised",
    "raw",
    "error",
    "removed",
    "second image",
    "codes",
)
MEASURED = 512
"""default of --measured"""


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
        help="patches to hide, where the objective hides any: random (default), block, "
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
        default=MEASURED,
        metavar="IMAGES",
        help="number of images that R² or PSNR is measured on, from the first",
    )
    parser.add_argument(
        "--workers",
        type=natural,
        help=f"decoding processes for these images (default: none up to {MEASURED}, else one for "
        "each core of this process)",
    )
    seed_option(parser, "random seed of the masks or other noise")


def run(args: argparse.Namespace) -> None:
    """Write the picture and its JSON file; print the quality."""
    import json

    from mae.base.device import choose_device, loader_count
    from mae.base.divided_work import divided_work
    from mae.base.errors import UserError
    from mae.base.files import file_identity, write_json
    from mae.base.portion import launched_portion
    from mae.commands.measured_images import DividedImages, noise_seeds
    from mae.commands.pictures import open_picture_source, picture_path, write_sheet
    from mae.evaluation.encoders import weights_sha256
    from mae.objectives import registry
    from mae.pictures.reconstruction import BATCH, ReconstructionRequest, reconstruct

    out, portion = picture_path(args, "reconstruction"), launched_portion()
    log = portion.log
    source = open_picture_source(args, "reconstructions", with_decoder=True, log=log)
    objective, name = source.objective, source.config.objective
    if not hasattr(objective, "reconstruct"):
        raise source.lacking("reconstructions")
    if not source.opened.has_decoder:
        raise UserError(
            f"{args.run}: holds no decoder, which reconstructions need: give weights with one (of "
            "the paper's release, mae_visualize_vit_*.pth and mae_pretrain_vit_*_full.pth)"
        )
    workers = loader_count(args.workers)
    if args.workers is None and args.measured <= MEASURED:
        workers = 0
    found = portion.first_before_others(lambda: source.numbered(with_second=True))
    shown, device = source.load(found), choose_device(args.device)
    data = source.config.data
    read = [data.in_chans, data.bits, data.mean, data.std, data.crop_pct, objective.img_size]
    mask = Path(args.mask or "")  # the name of a kind of mask, or a file
    of_mask = file_identity(mask) if mask.is_file() else None
    chosen = [args.mask, of_mask, args.mask_ratio, args.measured, args.seed, BATCH]
    weights = [source.config.model.model_dump_json(), weights_sha256(objective)]
    plan = json.dumps([weights, read, found.identity(), chosen])
    with divided_work(out, plan, portion, log) as work:
        measured = DividedImages(
            work,
            found,
            args.measured,
            size=objective.img_size,
            seed=args.seed,
            device=device,
            workers=workers,
            log=log,
        )
        request = ReconstructionRequest(
            images=shown.images,
            names=shown.names,
            seeds=noise_seeds(args.seed, shown.numbers, device),
            measured=measured,
            title=source.title,
            objective=name,
            mask=args.mask,
            mask_ratios=args.mask_ratio,
            columns=args.columns or (),
        )
        own = registry.implementation(name).reconstruct(objective, request)
        made = own or reconstruct(objective, request)
    portion.leave_to_first()
    for reason in measured.bad:
        if reason not in shown.bad:
            log(f"skipped  {reason}")
    write_sheet(made.sheet, out)
    lines = list(source.opened.lines)
    known = {"weights": lines} if lines else {}
    write_json(out.with_suffix(".json"), {"step": source.opened.step, **known, **made.figures})
    print("\n".join([*made.lines, str(out)]))
