"""`mae search`: the images of a data set that are most like a query."""

import argparse
from pathlib import Path
from typing import Any

from mae.base.device import loader_count
from mae.commands.argument_types import natural, positive
from mae.commands.options import (
    RUN,
    TARS,
    add_command,
    encoding_options,
    pixel_options,
    weight_group,
)

EPILOG = (
    "Queries are image files, or samples of --among by their key or number. What is among the "
    "images searched does not find itself. Similarities are cosines, less the mean of the images "
    "searched. The search is exact; --index approximate makes an HNSW graph once (kept beside the "
    "cached features), which pays from about a million images on, and prints the share of true "
    "neighbours that it finds. mae neighbours draws the picture alone."
)


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands, "search", "find the images that are most like a query", run, EPILOG
    )
    parser.add_argument(
        "features", metavar="run", help=f"features: pixels (reduced to 16 x 16), or {RUN}"
    )
    parser.add_argument("queries", nargs="+", help="image files, or keys or numbers of samples")
    parser.add_argument(
        "--among",
        nargs="+",
        required=True,
        help=f"images to search: files, folders of them, or shards: {TARS}",
    )
    parser.add_argument("-k", type=positive, default=6, help="images found for each query")
    parser.add_argument(
        "--index",
        choices=("exact", "approximate"),
        default="exact",
        help="approximate needs usearch (maekit[search])",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="picture, .png or .html, with a JSON file of that name beside it (default: search.png "
        "in the folder of RUN; for pixels, here)",
    )
    parser.add_argument("--max-bad", type=natural, help="images that may fail to decode")
    weight_group(parser)
    pixel_options(parser)
    encoding_options(parser)


def run(args: argparse.Namespace) -> None:
    """Encode what is searched (cached); print a table, write the JSON file and the picture.

    Raises UserError as `open_features` and `find_queries`.
    """
    from mae.base.files import write_json
    from mae.base.output import print_error
    from mae.commands.chosen_features import open_chosen_features
    from mae.commands.found_images import found_sheet
    from mae.commands.pictures import require_picture, write_sheet
    from mae.evaluation.features import BATCH
    from mae.similarity.features import encoded, open_data
    from mae.similarity.queries import find_queries, index_path, shown_size
    from mae.similarity.retrieval import APPROXIMATE, require_index, retrieve
    from mae.similarity.search_report import query_lines, query_section

    log = print_error
    if args.index == APPROXIMATE:
        require_index()
    if args.out:
        require_picture(args.out)
    source = open_chosen_features(args, args.among, log)
    out = args.out or source.folder.parent / "search.png"
    images = open_data(args.among, "--among", source)
    among = encoded(
        source,
        images,
        batch_size=args.batch_size or BATCH,
        workers=loader_count(args.workers),
        max_bad=args.max_bad,
        log=log,
    )
    queries = find_queries(args.queries, source, images, among, batch_size=args.batch_size or BATCH)
    found = retrieve(
        queries.vectors,
        among,
        args.k,
        own=queries.rows,
        index=index_path(source, images) if args.index == APPROXIMATE else None,
        device=source.device,
        log=log,
    )
    sections = [
        query_section(name, rows, cosine, among, images.manifest)
        for name, rows, cosine in zip(queries.names, *found.neighbours, strict=True)
    ]
    for section in sections:
        for line in query_lines(section):
            print(line)
    report = {
        "command": args.command,
        "run": args.features,
        "model_sha256": source.encoder.sha256,
        "feature": source.feature,
        "similarity": "cosine, less the mean of the images searched",
        "data": images.manifest.fingerprint,
        "searched": len(among.samples),
        "index": args.index,
        "recall_of_10": found.recall,
        "queries": sections,
    }
    sheet = found_sheet(
        queries.images,
        queries.names,
        found.neighbours,
        images,
        among.samples,
        img_size=shown_size(source, images, int(among.samples[0])),
        crop_pct=source.encoder.crop_pct,
        title=f"{args.features}: images most like a query",
        feature=source.feature,
        finds_itself=False,
    )
    write_sheet(sheet, out)
    write_json(out.with_suffix(".json"), report)
    if found.recall is not None:
        print(f"the index finds {found.recall:.1%} of the 10 true neighbours")
    print(f"{len(among.samples):,} images searched; {out}, {out.with_suffix('.json')}")
