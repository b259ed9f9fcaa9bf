"""`mae neighbours`: nearest neighbours of images in feature space."""

import argparse
from typing import Any

from mae.commands.options import add_command, natural, picture_options, positive


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands, "neighbours", "picture of the nearest neighbours of images by features", run
    )
    picture_options(parser, "neighbours")
    parser.add_argument("--among", nargs="+", required=True, help="shards to search")
    parser.add_argument("-k", type=positive, default=6, help="neighbours of each image")
    parser.add_argument("--workers", type=natural, default=0, help="decoding processes")


def run(args: argparse.Namespace) -> None:
    """Encode the images to search (cached in RUN/features); write the picture."""
    import torch

    from mae.commands.pictures import (
        log,
        open_picture_source,
        picture_path,
        sample_name,
        write_sheet,
    )
    from mae.data.training_data import open_images
    from mae.data.transform import stack
    from mae.data.views import CentredViews
    from mae.evaluation.feature_cache import FOLDER, load_or_encode
    from mae.pictures.neighbours import nearest, neighbours_sheet
    from mae.pretrained_weights.opened import results_folder

    out, source = picture_path(args, "neighbours"), open_picture_source(args, "nearest neighbours")
    config, objective = source.config, source.objective
    vectors = source.outputs().vectors
    if not vectors:
        raise source.lacking("pooled features")
    feature = vectors[0]
    queries, names, _ = source.load()
    images = open_images(args.among, "--among", config)
    known = load_or_encode(
        source.frozen(),
        images,
        results_folder(args.run, args.out) / FOLDER,
        device=queries.device,
        workers=args.workers,
        max_bad=config.data.max_bad,
        log=log,
    )
    with torch.no_grad():
        encoded = objective.encode(queries).pooled[feature].float().cpu().numpy()
    found = nearest(encoded, known.vectors[feature][:].astype("float32"), args.k)
    views = CentredViews(images, objective.img_size, config.data.crop_pct)
    numbers = known.samples[found.rows].tolist()
    sheet = neighbours_sheet(
        queries,
        names,
        found=found,
        pictures=[stack([views.view(number) for number in near]) for near in numbers],
        captions=[[sample_name(images, number) for number in near] for near in numbers],
        searched=len(known.samples),
        title=source.title,
        feature=feature,
    )
    write_sheet(sheet, out)
    print(out)
