"""Model that compresses: its coders, and the header of their files."""

from typing import Any, NamedTuple

from mae.base.errors import UserError
from mae.compression.code_models import Model, PredictedModel, TableModel
from mae.compression.coding import Coder, PictureCodes
from mae.compression.container import Header
from mae.compression.layout import WHOLE, Size
from mae.compression.tables import Tables
from mae.config.sections import DataConfig
from mae.objectives.capabilities import ImageCoding


class Codec(NamedTuple):
    """Model that compresses, and how it reads images."""

    coding: ImageCoding
    sha256: str
    """checksum of everything that its codes and pixels depend on"""
    img_size: Size
    data: DataConfig
    device: Any = "cpu"

    def tile(self, tiled: bool) -> Size:
        """Tile of images: the model's size where it takes no other, or where that is asked for."""
        return self.img_size if tiled or not self.coding.any_size else WHOLE

    def images(self, tile: Size) -> PictureCodes:
        """Images as codes and back, in parts of `tile`."""
        return PictureCodes(self.coding, tile, self.device)

    def coder(self, tile: Size, tables: Tables | None) -> Coder:
        """Coder by `tables`, or by the model's own probabilities.

        Raises UserError for tables of another model.
        """
        model: Model
        if tables is None:
            model = PredictedModel(self.coding)
        else:
            if tables.model != self.sha256:
                raise UserError(
                    f"tables of another model (checksum {tables.model[:16]}, this one has "
                    f"{self.sha256[:16]})"
                )
            model = TableModel(tables)
        return Coder(self.images(tile), model)

    def header(self, coder: Coder) -> Header:
        """Header of files by `coder`."""
        model, data = bytes.fromhex(self.sha256)[:8], self.data
        checksum, build = coder.model.checksum, coder.model.build
        return Header(model, checksum, build, data.in_chans, data.bits, coder.images.tile)
