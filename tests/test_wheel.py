"""The wheel: all of the package and nothing else, from an sdist; installed, it works by itself."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email import message_from_bytes
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

ROOT = Path(__file__).parents[1]


def build(target: str, source: Path, out: Path) -> Path:
    """File of the kind `target`, built from the folder `source`."""
    words = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    done = subprocess.run(words, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.tar.gz" if target == "sdist" else "*.whl")
    return path


@pytest.fixture(scope="module")
def wheel_file(tmp_path_factory):
    """The wheel, built from the sdist alone, as an index has it."""
    out = tmp_path_factory.mktemp("wheel")
    with tarfile.open(build("sdist", ROOT, out)) as archive:
        archive.extractall(out, filter="data")
    (source,) = (path for path in out.iterdir() if path.is_dir())
    for name in ("tests/test_wheel.py", "docs/ARCHITECTURE.md", "LICENSE", "CHANGELOG.md"):
        assert (source / name).is_file(), name
    return build("wheel", source, out)


@pytest.fixture(scope="module")
def wheel(wheel_file):
    """Contents of the wheel by name."""
    with zipfile.ZipFile(wheel_file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize(
    ("pattern", "folder"),
    [
        ("configs/*.yaml", "recipes"),
        ("configs/autoencoders/*.yaml", "recipes/autoencoders"),
        ("launch/*.yaml", "launchers"),
        ("launch/*.sbatch", "launchers"),
        ("mae/explore/assets/*", "explore/assets"),
        ("mae/py.typed", "."),
    ],
)
def test_recipes_and_launcher_files_are_inside(wheel, pattern, folder):
    files = list(ROOT.glob(pattern))
    assert files
    for file in files:
        assert wheel[os.path.normpath(f"mae/{folder}/{file.name}")] == file.read_bytes()


def test_every_module_is_inside_and_nothing_else(wheel):
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "mae").rglob("*.py")}
    assert {name for name in wheel if name.endswith(".py")} == modules
    assert {name.partition("/")[0] for name in wheel} == {"mae", "maekit-0.1.0.dist-info"}


def test_metadata(wheel):
    fields = message_from_bytes(wheel["maekit-0.1.0.dist-info/METADATA"])
    addresses = dict(one.split(", ") for one in fields.get_all("Project-URL", []))
    assert addresses.keys() == {"Homepage", "Documentation", "Changelog", "Issues"}
    assert "Typing :: Typed" in fields.get_all("Classifier", [])
    assert fields["License-Expression"] == "Apache-2.0" and fields["Keywords"]
    needed = {one.name: one for one in map(Requirement, fields.get_all("Requires-Dist", []))}
    for name in ("torch", "torchvision"):  # builds for CPUs have a local version
        least = next(iter(needed[name].specifier)).version
        assert f"{least}+cpu" in needed[name].specifier


def closure(requirements: list[str]) -> dict[str, metadata.Distribution]:
    """Distributions of this environment that `requirements` need, by name, and all that they need.

    Markers and extras count as an installer reads them.
    """
    found: dict[str, metadata.Distribution] = {}
    asked: set[tuple[str, str]] = set()
    waiting = [(Requirement(one), "") for one in requirements]
    while waiting:
        needed, of_extra = waiting.pop()
        if needed.marker and not needed.marker.evaluate({"extra": of_extra}):
            continue
        name = canonicalize_name(needed.name)
        found[name] = metadata.distribution(name)
        for extra in {"", *needed.extras}:
            if (name, extra) not in asked:
                asked.add((name, extra))
                waiting += [(Requirement(one), extra) for one in found[name].requires or ()]
    return found


def link(distributions: dict[str, metadata.Distribution], site: Path) -> None:
    """Link the files of distributions into `site`: whole packages, unless others have a part."""
    shared = set()
    for other in metadata.distributions():
        if canonicalize_name(other.name) not in distributions:
            shared |= {file.parts[0] for file in other.files or ()}
    for one in distributions.values():
        inside = [file for file in one.files or () if file.parts[0] not in ("..", "__pycache__")]
        entries = {file if file.parts[0] in shared else Path(file.parts[0]) for file in inside}
        for entry in entries:
            target = site / entry
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.is_symlink():  # namespace packages belong to several
                target.symlink_to(Path(str(one.locate_file(entry))).resolve())


LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
"""links and images of Markdown and HTML"""


def test_links_and_images_of_the_description_are_absolute(wheel):
    fields = message_from_bytes(wheel["maekit-0.1.0.dist-info/METADATA"])
    assert fields["Description-Content-Type"] == "text/markdown"
    description = wheel["maekit-0.1.0.dist-info/METADATA"].decode().partition("\n\n")[2]
    readme = (ROOT / "README.md").read_text()
    found = [(image, one or other) for image, one, other in LINK.findall(description)]
    assert len(found) == len(LINK.findall(readme)) > 30
    assert [link for _, link in found if not link.startswith(("https://", "#"))] == []
    homepage = "https://github.com/maekit/maekit"
    assert f"Homepage, {homepage}" in fields.get_all("Project-URL", [])
    files = homepage.replace("//github.com", "//raw.githubusercontent.com") + "/main/"
    assert {link.startswith(files) for image, link in found if image} == {True}
    for start in (files, f"{homepage}/blob/main/"):
        of_files = [link.removeprefix(start) for _, link in found if link.startswith(start)]
        assert of_files and all((ROOT / one.partition("#")[0]).is_file() for one in of_files)


@pytest.fixture(scope="module")
def installed(wheel_file, wheel, tmp_path_factory):
    """Folder of the programs of an environment with the wheel and what it requires, no extras."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder)
    python = folder / "bin" / "python"
    uv = shutil.which("uv")
    if uv is not None:
        installer = [uv, "pip", "install", "--offline", "--python", str(python)]
    else:
        installer = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-index"]
    words = [*installer, "--no-deps", str(wheel_file)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (site,) = folder.glob("lib/python*/site-packages")
    required = message_from_bytes(wheel["maekit-0.1.0.dist-info/METADATA"])
    link(closure(required.get_all("Requires-Dist", [])), site)
    return folder / "bin"


@pytest.fixture
def run_installed(installed, tmp_path):
    """Function that runs a program of the environment in `tmp_path`, and returns what it printed.

    Away from the clone and without a network, as for a person who has the wheel alone.
    """
    own = {"HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    own["HF_HUB_OFFLINE"] = "1"
    environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ} | own

    def run(program: str, *words: str) -> str:
        done = subprocess.run(
            [installed / program, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


OF_EXTRAS = {
    "boto3": "s3",
    "diffusers": "diffusers",
    "imagecodecs": "formats",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "pyarrow": "parquet",
    "s3fs": "s3",
    "sphinx": "docs",
    "tensorboard": "tensorboard",
    "transformers": "hf",
    "usearch": "search",
}
"""module → the extra that it comes with"""


def test_modules_of_extras_are_not_in_the_environment_of_the_wheel(run_installed):
    assert all(map(find_spec, OF_EXTRAS))  # they are in that of the tests
    names = ("torch", "timm", "pytest", *OF_EXTRAS)
    found = run_installed(
        "python",
        "-c",
        f"from importlib.util import find_spec; print(*filter(find_spec, {names}))",
    )
    assert found.split() == ["torch", "timm"]


def test_a_recipe_runs_by_its_name_on_a_folder_of_images(
    installed, run_installed, tmp_path, make_image
):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(12):
        Image.fromarray(make_image(number, 20)).save(photos / f"{number}.jpg")
    launcher = run_installed("mae", "recipes", "launchers", "multi_gpu")
    assert Path(launcher.strip()).is_relative_to(installed.parent)
    settings = ("train.epochs=2", "train.batch_size=4", "data.workers=0", "log.wandb=false")
    words = ("pretrain", "ae", "data.train=photos", "data.val_share=0.3", *settings)
    printed = run_installed("mae", *words)
    assert re.search(r"done: [45] steps; runs/ae holds the run", printed)  # a share by names
    start = json.loads((tmp_path / "runs/ae/starts.jsonl").read_text())
    assert (start["recipe"], start["git"]) == ("ae", None)
    assert list(start["folders"]) == [str(photos)]
    assert (tmp_path / ".cache/mae/packed").is_dir()


def test_the_first_commands_of_the_readme_need_no_extra(run_installed, tmp_path, make_image):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(24):
        Image.fromarray(make_image(number, 40)[..., 0]).save(photos / f"{number}.png")
    settings = ("auto.hours=1e-4", "data.workers=0")
    printed = run_installed(
        "mae", "pretrain", "auto", "data.train=photos", "output=runs/photos", *settings
    )
    assert re.search(r"done: \d+ steps; runs/photos holds the run", printed)
    run_installed("mae", "report", "runs/photos")
    assert (tmp_path / "runs/photos/report.html").is_file()
    assert "checked through timm" in run_installed("mae", "export", "runs/photos", "exported")
    lines = (
        "import mae",
        'encoder = mae.load("runs/photos")',
        'print(encoder.embed(["photos/0.png", "photos/1.png"]).shape)',
    )
    assert re.fullmatch(r"\(2, \d+\)\n", run_installed("python", "-c", "\n".join(lines)))
