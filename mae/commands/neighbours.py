"""`mae neighbours`: nearest neighbours of images in feature space."""

import argparse
from typing import Any

from mae.base.device import loader_count
from mae.commands.argument_types import positive
from mae.commands.options import add_command, picture_options, workers_option


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "neighbours",
        "picture of the nearest neighbours of images by features",
        run,
        "A quick look at a run.  mae search has more: a table, a JSON file, keys as queries, raw "
        "pixels and exports as features, an index for large sets.",
    )
    picture_options(parser, "neighbours")
    parser.add_argument(
        "--among", nargs="+", required=True, help="images to search: shards or a folder"
    )
    parser.add_argument("-k", type=positive, default=6, help="neighbours of each image")
    workers_option(parser)


def run(args: argparse.Namespace) -> None:
    """Encode the images to search (cached in RUN/features); write the picture."""
    import torch

    from mae.commands.found_images import found_sheet
    from mae.commands.pictures import open_picture_source, picture_path, write_sheet
    from mae.data.opening import open_images
    from mae.evaluation.feature_cache import FOLDER, load_or_encode
    from mae.evaluation.nearest import centre_of, nearest
    from mae.pretrained_weights.opened import results_folder

    out, source = picture_path(args, "neighbours"), open_picture_source(args, "nearest neighbours")
    config, objective = source.config, source.objective
    vectors = source.outputs().vectors
    if not vectors:
        raise source.lacking("pooled features")
    feature = vectors[0]
    queries, names, *_ = source.load()
    images = open_images(args.among, "--among", config)
    known = load_or_encode(
        source.frozen(),
        images,
        results_folder(args.run, args.out) / FOLDER,
        device=queries.device,
        workers=loader_count(args.workers),
        max_bad=config.data.max_bad,
        log=source.log,
    )
    with torch.no_grad():
        encoded = objective.encode(queries).pooled[feature].float().cpu().numpy()
    among = known.vectors[feature]
    sheet = found_sheet(
        queries,
        names,
        nearest(encoded, among, args.k, centre=centre_of(among)),
        images,
        known.samples,
        img_size=objective.img_size,
        crop_pct=config.data.crop_pct,
        title=source.title,
        feature=feature,
    )
    write_sheet(sheet, out)
    print(out)
