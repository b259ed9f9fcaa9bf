"""Images in, pictures out."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from mae.config import Config
from mae.data.loader import CentredViews
from mae.data.training_data import open_images
from mae.data.transform import center_view, stack
from mae.decoding.decode import decode
from mae.decoding.formats import EXTENSIONS
from mae.decoding.pillow import BadImage
from mae.errors import UserError
from mae.models.mae import MaskedAutoencoder
from mae.visualize import save_png


def load_images(
    sources: Sequence[str], config: Config, model: MaskedAutoencoder, limit: int
) -> torch.Tensor:
    """The first `limit` images of image files, or else of shards, as centred views."""
    data, size = config.data, model.img_size
    if not all(Path(source).suffix[1:].lower() in EXTENSIONS for source in sources):
        images = open_images(sources, "images", config)
        views = CentredViews(images, size, data.crop_pct)
        return stack([views.view(i) for i in range(min(limit, len(views)))])
    found = []
    for path in map(Path, sources[:limit]):
        try:
            extension = path.suffix[1:].lower()
            image = decode(path.read_bytes(), extension, config.model.in_chans, data.bits)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        except BadImage as error:
            raise UserError(f"{path}: {error}") from None
        found.append(center_view(image, size, data.crop_pct))
    return stack(found)


def write_png(image: Image.Image, out: Path) -> None:
    """UserError where `out` cannot be written."""
    try:
        save_png(image, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None


def require_mae(objective: torch.nn.Module) -> MaskedAutoencoder:
    """UserError where the run is of another objective."""
    if not isinstance(objective, MaskedAutoencoder):
        raise UserError("this command needs a masked autoencoder")
    return objective
