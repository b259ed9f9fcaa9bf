"""Modes of all files that the product writes: those that the umask allows, for colleagues."""

import os
import stat
from pathlib import Path

import pytest

from mae.cli import main
from tests.runs import write_config

SETTINGS = "train.epochs=0.4 optim.warmup_epochs=0 train.checkpoint_every=2"
PICTURES = "log.panel_every=2 log.health_every=0.2"
LINES = (
    "pack {pictures} {out}/packed --workers 0",
    "index {shards} --wids {out}/wids.json --wds2idx",
    "pretrain {config} data.val={shards} data.index_dir={out}/indexes " + f"{SETTINGS} {PICTURES}",
    "features {run} {shards} --out {out}/features.safetensors",
    "knn {run} --train {shards} --test {shards}",
    "report {run}",
    "reconstruct {run} {shards} --out {out}/pictures.html",
    "pca {run} {shards} --out {out}/pca.png",
    *(f"export {{run}} {{out}}/{name} --format {name}" for name in ("timm", "plain", "mae", "hf")),
)


@pytest.mark.parametrize("umask", [0o022, 0o027])
@pytest.mark.usefixtures("in_process")
def test_the_umask_decides_who_may_read_a_file(umask, make_image, make_shards, tmp_path):
    from PIL import Image

    names = {"pictures": tmp_path / "pictures", "out": tmp_path / "out", "run": tmp_path / "run"}
    names["shards"] = make_shards(tmp_path / "shards", 40, shard_size=20, size=(20, 24))
    names["config"] = write_config(tmp_path, str(names["shards"]))
    for number in range(4):
        names["pictures"].mkdir(exist_ok=True)
        Image.fromarray(make_image(number)).save(names["pictures"] / f"{number}.png")
    before = os.umask(umask)
    try:
        for line in LINES:
            assert main(line.format(**names).split()) == 0, line
    finally:
        os.umask(before)
    written = [path for name in ("out", "run", "shards") for path in (tmp_path / name).rglob("*")]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in written if not made_before(path)}
    expected = {True: 0o777 & ~umask, False: 0o666 & ~umask}
    assert {p: oct(m) for p, m in modes.items() if m != expected[p.is_dir()]} == {}
    kinds = {path.suffix for path in modes if path.is_file()}
    assert kinds >= {".safetensors", ".json", ".jsonl", ".png", ".html", ".pth", ".tar", ".idx"}


def made_before(path: Path) -> bool:
    """True for the shards of the fixture."""
    return path.parent.name == "shards" and path.suffix == ".tar"
