"""Choice of the source of `mae pack`: a folder, a table, a torchvision data set, or tars."""

from pathlib import Path

from mae.base.errors import UserError
from mae.pack.folders import list_folder
from mae.pack.listing import DATASET_PREFIX, Listing, PackRequest
from mae.pack.tables import SUFFIXES, list_table
from mae.pack.tars import list_tars


def list_sources(request: PackRequest) -> Listing:
    """List all images of a request.

    Raises UserError, one line per fault, where there is no image or a table or label is wrong.
    """
    first = request.sources[0]
    if len(request.sources) == 1:
        if first.startswith(DATASET_PREFIX):
            from mae.pack.datasets import list_dataset  # torchvision comes with it

            return list_dataset(first.removeprefix(DATASET_PREFIX), request.root, request.labels)
        path = Path(first).expanduser()
        if path.is_dir():
            return list_folder(path, request.labels)
        if path.suffix.lower() in SUFFIXES:
            return list_table(path, request.path_column, request.label_column, request.labels)
    for source in request.sources:
        if source.startswith(DATASET_PREFIX) or Path(source).is_dir():
            raise UserError(
                f"{source}: only tars can be packed together; give one folder, table or data set"
            )
        if not source.partition("?")[0].endswith(".tar") and not source.startswith("pipe:"):
            if not Path(source).exists():
                raise UserError(f"{source}: no such folder")
            expected = f"a folder, {', '.join(SUFFIXES)}, .tar or {DATASET_PREFIX}NAME"
            raise UserError(f"{source}: cannot be packed: expected {expected}")
    return list_tars(request.sources, request.labels, request.cache)
