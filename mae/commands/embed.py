"""`mae embed`: a table of embeddings, with a map, neighbours and thumbnails."""

import argparse
from pathlib import Path
from typing import Any

from mae.commands.argument_types import amount, natural, positive
from mae.commands.options import (
    TARS,
    add_command,
    encoding_options,
    feature_source_options,
    seed_option,
)

EPILOG = (
    "Writes one Parquet file with a row per image: key, class, features, thumbnail, place on a map "
    "in two dimensions, nearest neighbours, first image with the same pixels, and an outlier "
    "score. mae explore shows it as a page; datasets, pandas, DuckDB and embedding-atlas open it "
    "as it is. Distances on the map mean little beyond near neighbours: the figures say how many "
    "of the neighbours it keeps, beside PCA."
)
SUFFIX = ".parquet"


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands, "embed", "write a table of embeddings with a map of the images", run, EPILOG
    )
    parser.add_argument(
        "images", nargs="+", help=f"image files, folders of them, or shards: {TARS}"
    )
    feature_source_options(parser)
    parser.add_argument("--out", type=Path, required=True, help="new file, .parquet")
    parser.add_argument(
        "--projection",
        choices=("tsne", "pca", "umap"),
        default="tsne",
        help="map: t-SNE, PCA (fast), or UMAP (needs umap-learn)",
    )
    parser.add_argument(
        "--perplexity", type=amount, default=30.0, help="of t-SNE: effective number of neighbours"
    )
    parser.add_argument(
        "--threads",
        type=positive,
        default=1,
        help="threads of t-SNE: another number gives another, equally good map",
    )
    parser.add_argument("-k", type=positive, default=10, help="neighbours of each image")
    seed_option(parser, "random seed of the map, and of the images compared")
    parser.add_argument(
        "--max-bad",
        type=natural,
        help="images that may fail to decode (default: as the model's data.max_bad; pixels: 0)",
    )
    encoding_options(parser)


def run(args: argparse.Namespace) -> None:
    """Encode, map and write; print the figures of the map and of the vectors."""
    from mae.base.device import loader_count
    from mae.base.errors import UserError
    from mae.base.portion import launched_portion
    from mae.commands.chosen_features import open_chosen_features
    from mae.evaluation.features import BATCH
    from mae.similarity.embedding import EmbedRequest, embed
    from mae.similarity.features import open_data
    from mae.similarity.figures import figure_lines
    from mae.similarity.projection import Projection, require_projection
    from mae.similarity.table import require_pyarrow

    if args.out.suffix != SUFFIX:
        raise UserError(f"--out: {args.out} must end in {SUFFIX}")
    require_pyarrow("--out")
    require_projection(args.projection)
    portion = launched_portion()
    source = open_chosen_features(args, args.images, portion.log)
    request = EmbedRequest(
        images=open_data(args.images, "images", source, portion),
        source=source,
        out=args.out,
        projection=Projection(args.projection, args.perplexity, args.seed, args.threads),
        k=args.k,
        max_bad=args.max_bad,
        batch_size=args.batch_size or BATCH,
        workers=loader_count(args.workers),
        portion=portion,
        log=portion.log,
    )
    origin = embed(request)
    portion.leave_to_first()
    assert origin is not None
    for line in figure_lines(origin):
        print(line)
    print(f"{args.out}: {origin['rows']:,} images")
