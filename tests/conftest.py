"""Shared fixtures: small, real, deterministic shards."""

import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

# Golden numbers and equal bits are the CPU's; what the tests start inherits this.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

CLASSES = 3

settings.register_profile("busy machines too", deadline=None)
settings.load_profile("busy machines too")


@pytest.fixture(scope="session")
def make_image():
    """`make_image(number, size=(24, 32), channels=3)` → uint8 array of [h w] or [h w 3].

    A smooth gradient with blobs, drawn from `number` alone; its class (`number` modulo 3) is
    the direction of the gradient.
    """
    return _draw


@pytest.fixture(scope="session")
def make_tar():
    """`make_tar(path, members, format=tarfile.GNU_FORMAT)` writes (name, bytes) pairs in order.

    Returns `path`.
    """
    return _make_tar


@pytest.fixture(scope="session")
def make_shards():
    """`make_shards(folder, count, ...)` writes WebDataset tars and returns their glob pattern.

    Samples are `KEY.jpg` (or `.png`) and, with `labels`, `KEY.cls`; keys are `sample-00000` and
    so on.  The same arguments give the same bytes.  `size` is [height, width] or one number.
    """
    return _make_shards


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real images beside the project, where there is one."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder of real images beside the project")
    return folder


def _make_shards(
    folder: Path,
    count: int,
    *,
    shard_size: int = 8,
    size: int | tuple[int, int] = (24, 32),
    labels: bool = True,
    channels: int = 3,
    extension: str = "jpg",
) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for shard, start in enumerate(range(0, count, shard_size)):
        members = []
        for number in range(start, min(count, start + shard_size)):
            key = f"sample-{number:05d}"
            if labels:
                members.append((f"{key}.cls", str(number % CLASSES).encode()))
            image = _encode(_draw(number, size, channels), extension)
            members.append((f"{key}.{extension}", image))
        _make_tar(folder / f"shard-{shard:06d}.tar", members)
    return f"{folder}/shard-*.tar"


def _draw(number: int, size: int | tuple[int, int] = (24, 32), channels: int = 3) -> np.ndarray:
    height, width = (size, size) if isinstance(size, int) else size
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    angle = np.pi * (number % CLASSES) / CLASSES
    image = np.empty((height, width, channels))
    for channel in range(channels):
        image[..., channel] = 128 + 80 * (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5))
        for _ in range(3):
            centre_y, centre_x, height_of_blob = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform()
            distance = (y - centre_y) ** 2 + (x - centre_x) ** 2
            image[..., channel] += 120 * (height_of_blob - 0.5) * np.exp(-distance / 0.02)
    pixels = image.round().clip(0, 255).astype(np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def _encode(pixels: np.ndarray, extension: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG" if extension == "png" else "JPEG", quality=90)
    return file.getvalue()


def _make_tar(
    path: Path, members: Iterable[tuple[str, bytes]], format: int = tarfile.GNU_FORMAT
) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path
