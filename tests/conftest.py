"""Shared fixtures: small, real, deterministic shards; a reference run; retries without pauses."""

import fcntl
import io
import os
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from tests.runs import command, completed, on_two_processes, write_config
from tests.servers import web_server

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


class ReferenceRun(NamedTuple):
    """A finished run of the tiny config that nothing disturbed; not to be changed by tests."""

    folder: Path
    """RUN, with the config `tiny.yaml` beside it"""
    printed: str
    """standard output"""


@pytest.fixture(scope="session")
def shards(tmp_path_factory, make_shards):
    """Glob pattern of 52 images in 3 shards: batches of 8 straddle epochs."""

    def make(folder: Path) -> None:
        make_shards(folder, 52, shard_size=20, size=(20, 24), extension="png")

    return f"{_made_once(tmp_path_factory, 'reference-shards', make)}/shard-*.tar"


@pytest.fixture(scope="session")
def reference_run(tmp_path_factory, shards):
    """A finished run of one process, by the command line; panels every 10 steps."""
    return _reference_run(tmp_path_factory, "reference-run", shards, "log.panel_every=10")


@pytest.fixture(scope="session")
def reference_run_by_two(tmp_path_factory, shards):
    """A finished run of `--processes 2`, each with a decoding process of its own."""
    settings = ("train.num_processes=2", "data.workers=1")
    name = "reference-run-by-two"
    return _reference_run(tmp_path_factory, name, shards, *settings, processes=2)


@pytest.fixture
def in_process(monkeypatch):
    """Check exports in this process instead of a fresh one."""
    # Here: modules with shape checks must not be imported before pytest is configured.
    from tests.export_checks import run_here

    monkeypatch.setattr("mae.export.folder.run_check", run_here)


@pytest.fixture(scope="module")
def few_patches():
    """Detectors of anomalies keep few patches, since time is short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mae.anomaly.scorers.CORESET", 300)
        yield


@pytest.fixture
def fast_retries(monkeypatch):
    """Retries of downloads without noticeable pauses, and no proxy between here and loopback."""
    monkeypatch.setattr("mae.storage.retry.FIRST_DELAY", 0.001)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server(fast_retries):
    """A web server on loopback that counts, delays and fails as it is asked to."""
    with web_server() as server:
        yield server


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real images beside the project, where there is one."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder of real images beside the project")
    return folder


def _reference_run(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    shards: str,
    *settings: str,
    processes: int = 1,
) -> ReferenceRun:
    def make(folder: Path) -> None:
        config = write_config(folder, shards)
        words = command(config, *settings)
        if processes == 2:
            words = on_two_processes("pretrain", str(config), *settings)
        done = completed(words)
        assert done.returncode == 0, done.stderr
        (folder / "printed").write_text(done.stdout)

    folder = _made_once(tmp_path_factory, name, make)
    return ReferenceRun(folder / "run", (folder / "printed").read_text())


def _made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]
) -> Path:
    """A folder filled by `make`, once for all processes of a test session."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / name
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / f"{name}.done").exists():
            folder.mkdir()
            make(folder)
            (base / f"{name}.done").touch()
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
