"""The page docs/PYTHON.md: its code runs, in its order, and the loop's loss falls."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mae
from tests.runs import TINY

PAGE = (Path(__file__).parents[1] / "docs" / "PYTHON.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)
SMALLER = {
    '"auto", data="photos/"': '"tiny.yaml", data="shards/train-*.tar"',
    '"vit_small_patch16_224"': '"tiny.yaml"',
    "batch_size=256": "batch_size=16, workers=0",
    "steps = [], 1000": "steps = [], 30",
    '"train.epochs": 50': '"train.epochs": 2',
    'val="shards/test-*.tar")': 'val="shards/test-*.tar", **small)',
}
"""words of the page → those of the test"""


@pytest.fixture(scope="module")
def names(make_shards, make_image, tmp_path_factory):
    """Variables of the page's code, run whole, and what it printed."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "shards").mkdir()
    for split, count in (("train", 32), ("test", 8)):
        make_shards(folder / split, count, shard_size=count, size=20)
        tar = folder / split / "shard-000000.tar"
        tar.replace(folder / "shards" / f"{split}-000000.tar")
    (folder / "photos").mkdir()
    for number, name in enumerate(("photos/a.png", "photos/b.png", "a.png", "b.png")):
        Image.fromarray(make_image(number)).save(folder / name)
    (folder / "tiny.yaml").write_text(TINY)
    small = {"train": {"epochs": 2, "batch_size": 16}, "optim": {"warmup_epochs": 0.5}}
    found: dict[str, Any] = {"pictures": [make_image(n) for n in range(3)]}
    found["small"] = small | {"log": {"wandb": False}}
    code = "\n".join(BLOCKS)
    for words, smaller in SMALLER.items():
        assert words in code, words
        code = code.replace(words, smaller)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(code, "docs/PYTHON.md", "exec"), found)
    return found


def test_the_first_lines(names):
    assert names["run"].path == Path("runs/second") and isinstance(names["run"], mae.Run)
    assert names["vectors"].shape == (2, 32)


def test_the_loop_learns(names):
    losses = names["losses"]
    assert len(losses) == 30 and np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_numbers_and_classes(names):
    assert len(names["rows"]) == 8 and names["chances"].shape == (3, 3)
    assert names["tokens"].shape == (3, 17, 32)


def test_every_public_name_is_on_the_page():
    assert [name for name in mae.__all__ if f"mae.{name}" not in PAGE and name != "Encoder"] == []
