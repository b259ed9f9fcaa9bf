"""The page docs/LATENTS.md: its lines train a diffusion model on latents, and decode samples."""

import gc
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset

from mae.cli import main
from mae.training.checkpoint.trained import load_pretrained
from tests.objectives.autoencoders.small import small_config
from tests.untrained import untrained_run

PAGE = (Path(__file__).parents[1] / "docs" / "LATENTS.md").read_text()
SMALLER = {
    "sample_size=8": "sample_size=4",
    "(64, 128)": "(32, 32)",
    "4, 8, 8)": "4, 4, 4)",
    "batch_size=64": "batch_size=8",
    "set_timesteps(50)": "set_timesteps(2)",
    "range(3)": "range(1)",
}
"""words of the page → those of the test"""

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(autouse=True)
def collected():
    """Collect garbage while the warnings are ignored: webdataset leaves its shards open."""
    yield
    gc.collect()


def test_the_lines_of_the_page_train_and_decode(shards, tmp_path, monkeypatch, in_process):
    run = untrained_run(tmp_path / "run", small_config("kl", 3, stages=2, depth=1))
    monkeypatch.chdir(tmp_path)
    words = ["export", str(run), "kl-diffusers", "--format", "diffusers", "--images", "noise"]
    assert main(words) == 0
    assert main(["latents", str(run), shards, "latents", "--workers", "0"]) == 0
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    for word, smaller in SMALLER.items():
        assert code.count(word) == 1, word
        code = code.replace(word, smaller)
    names: dict = {}
    exec(code, names)
    assert len(names["losses"]) == 7, "52 samples in batches of 8"
    assert names["pictures"].shape == (10, 3, 16, 16) and names["pictures"].isfinite().all()
    dataset: Any = webdataset.WebDataset(names["shards"], shardshuffle=False).decode()
    stored = next(iter(dataset))
    mean = torch.from_numpy(stored["npy"])[None]
    _, model, _ = load_pretrained(run)
    with torch.no_grad():
        theirs = names["vae"].decode(mean).sample
        ours = model.get_submodule("decoder")(model.get_submodule("from_latent")(mean))
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    # What the model sees has unit variance.
    scaled = torch.cat([latents for latents, _ in names["loader"]])
    assert scaled.std().item() == pytest.approx(1, rel=0.05)
    assert json.loads(Path("latents/latents.json").read_text())["images"] == 52
