"""One shard of `mae pack`: a pure function of the listing, the options and the shard's number."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import webdataset

from mae.base.errors import RunFailed, SampleError, UserError
from mae.decoding.decode import read_info
from mae.decoding.pixels import BadImage
from mae.packing.duplicates import content_digest
from mae.packing.examine import examine
from mae.packing.plan import PackOptions, ShardTask, key_of, report_file, save_report
from mae.packing.recode import Encoded, pixel_cost, recode
from mae.packing.sources import UNKNOWN, Listing

MEASURED = 64


class ShardWriter(NamedTuple):
    """Writes shards into `folder`; goes to every worker process."""

    listing: Listing
    options: PackOptions
    folder: Path

    def write(self, task: ShardTask) -> None:
        """Write the shard and then, as a sign that it is whole, its report."""
        rows: list[tuple] = []
        skipped: list[tuple[int, str]] = []
        shard = self.folder / f"{task.name}.tar"
        temporary = self.folder / f"{task.name}.{os.getpid()}.tmp"
        with temporary.open("wb") as file:
            # Fixed owner and time: packing twice gives the same bytes.
            fixed = {"encoder": False, "mtime": 0, "user": "mae", "group": "mae"}
            with webdataset.TarWriter(file, **fixed) as tar:
                for position, number in enumerate(task.images.tolist(), task.first):
                    measured = task.split == "train" and position < MEASURED
                    try:
                        stored, row = self._prepare(number, measured)
                    except (BadImage, SampleError) as error:
                        skipped.append((number, str(error)))
                        continue
                    except UserError:
                        raise
                    except Exception as error:  # a fault of ours: which file meets it is half of it
                        file_name = self.listing.reader.name(self.listing.sources[number].reference)
                        what = f"{type(error).__name__}: {error}"
                        raise RunFailed(f"{self.listing.name}: {file_name}: {what}") from error
                    record: dict[str, str | bytes | bytearray] = {
                        "__key__": key_of(task.split, position),
                        stored.extension: stored.data,
                    }
                    label = self.listing.sources[number].label
                    if label is not None:
                        record["cls"] = str(label).encode()
                    tar.write(record)
                    rows.append((number, position, *row))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(shard) if rows else temporary.unlink()
        save_report(report_file(self.folder, task), rows, skipped)

    def _prepare(self, number: int, measured: bool) -> tuple[Encoded, tuple]:
        """The image as it is stored, and its row of the report from `bytes_in` on."""
        listing, options = self.listing, self.options
        source = listing.sources[number]
        data = listing.reader.read(source.reference)
        if listing.sizes[number] not in (UNKNOWN, len(data)):
            name = listing.reader.name(source.reference)
            raise UserError(f"{listing.name}: {name}: changed while it was packed")
        found = examine(data, source.extension)
        original = Encoded(data, source.extension)
        stored = recode(original, options.resize, options.quality)
        cost = np.nan
        info = found.info
        if stored is not original:
            info = read_info(stored.data, stored.extension)
            cost = pixel_cost(original, stored, options.resize) if measured else np.nan
        elif measured and (options.resize or options.quality):
            cost = 0.0
        digest = tuple(np.frombuffer(content_digest(data), "<u8").tolist())
        look = (found.look or 0, found.look is not None)
        kind = (info.height, info.width, info.colours, info.bits)
        return stored, (len(data), len(stored.data), *kind, digest, *look, cost)
