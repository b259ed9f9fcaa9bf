"""`mae sae-report`: figures of each latent, against direct computation, and the page."""

import json
import re
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mae.base.errors import Stopped
from mae.cli import main
from mae.config.sections import Config
from mae.data.opening import open_images
from mae.data.views import CentredViews
from mae.evaluation.token_pca import TokenPca, fit_token_pca
from mae.objectives.capabilities import PatchLatents
from mae.sparse_features import selectivity, survey
from mae.sparse_features.survey import SurveyRequest
from mae.training.checkpoint.trained import load_pretrained
from tests.killed import stopped_after
from tests.objectives.autoencoders.small import small_config
from tests.untrained import untrained_run


@pytest.fixture
def small_parts(monkeypatch):
    """Batches and parts of few images."""
    monkeypatch.setattr(survey, "BATCH", 4)


def opened(run: Path) -> tuple[Config, Any, Any]:
    """Settings, model and state of a run."""
    return load_pretrained(run)


def report(run, shards, out, *options: str) -> dict:
    words = ["sae-report", str(run), "--test", shards, "--out", str(out), "--workers", "0"]
    assert main([*words, *options]) == 0
    return json.loads(out.with_suffix(".json").read_text())


def test_figures_are_those_of_all_latents_at_once(finished, shards, small_parts, tmp_path, capsys):
    found = report(finished("sae"), shards, tmp_path / "r.html", "--pictures", "20")
    printed = capsys.readouterr().out
    assert "top-k PCA" in printed and "best AUROC" in printed
    config, model, _ = opened(finished("sae"))
    images = open_images([shards], "x", config)
    views = CentredViews(images, model.img_size, config.data.crop_pct)
    batch = torch.stack([views.view(number) for number in range(52)])
    with torch.no_grad():
        whole = model.patch_latents(batch)
    latents, labels = whole.latents.double().numpy(), np.asarray(images.manifest.label)
    keys = [images.manifest.key(number) for number in range(52)]
    variance = (whole.tokens.double() - whole.tokens.double().mean((0, 1))).square().sum()
    errors = (whole.tokens - whole.again).double().square().sum()
    assert found["explained"] == pytest.approx(1 - (errors / variance).item(), abs=1e-6)
    assert found["active_latents"] == pytest.approx((latents > 0).sum() / (52 * 16))
    assert found["images"] == 52 and found["latents"] == latents.shape[2] == len(found["rows"])
    for row in found["rows"]:
        own = latents[:, :, row["latent"]]
        if not own.any():
            assert row["kind"] == "dead" and not row["top"]
            continue
        assert row["patches"] == pytest.approx((own > 0).mean())
        assert row["images"] == pytest.approx((own > 0).any(axis=1).mean())
        assert row["mean"] == pytest.approx(own[own > 0].mean(), rel=1e-5)
        # The share of variance between places: one-way analysis of variance.
        between = 52 * np.square(own.mean(axis=0) - own.mean()).sum()
        total = np.square(own - own.mean()).sum()
        assert row["place"] == pytest.approx(between / total, abs=1e-6)
        largest = own.max(axis=1)
        order = np.argsort(-largest, kind="stable")[:8]
        assert row["top"] == [keys[one] for one in order if largest[one] > 0]
        exact = [roc_auc_score(labels == c, largest) for c in range(3)]
        assert row["auroc"] == pytest.approx(max(exact), abs=0.03), "up to ties within a bin"
        assert max(exact) - exact[row["class"]] < 0.03
    page = (tmp_path / "r.html").read_text()
    assert "script-src" in page and "://" not in page, "nothing is fetched"
    data = json.loads(re.findall(r'type="application/json">(.*?)</script>', page)[0])
    assert len(data["rows"]) == found["latents"] and 0 < len(data["pictures"]) <= 20


def made_up(images: torch.Tensor) -> PatchLatents:
    """Latents [b 4 40] and tokens [b 4 6] that the images' pixels determine."""
    pixels = images[:, 0, ::8, ::8].flatten(1)[:, :, None].float() / 255
    waves = torch.sin(pixels * torch.arange(1, 41) + torch.arange(4.0)[:, None])
    return PatchLatents(waves.clamp(min=0), waves[..., :6], waves[..., 1:7], (2, 2))


def request_of(shards: str, out: Path) -> SurveyRequest:
    """Survey of made-up latents, of 3 classes."""
    images = open_images([shards], "x", small_config("ae", 3, latent_dim=8))
    views = CentredViews(images, (16, 16), None)
    return SurveyRequest(made_up, images, views, "made up", out, 3, log=lambda _: None)


def test_latents_and_components_have_as_many_bins(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(selectivity, "MOST_CELLS", (40 + 2 * 6) * 3 * 20)
    found = survey.survey(request_of(shards, tmp_path / "r.html"))
    assert found is not None and not found.left_out
    assert found.setup.edges.bins == found.setup.pca_edges.bins == 20
    assert found.arrays["latents"].shape == (40, 20, 3)
    assert found.arrays["components"].shape == (12, 20, 3)


def test_tokens_for_pca_are_not_kept(shards, tmp_path, monkeypatch, small_parts):
    alive: list[int] = []

    def fit(parts: Any) -> TokenPca:
        seen: list[Any] = []

        def watched() -> Any:
            for part in parts:
                seen.append(weakref.ref(part))
                alive.append(sum(one() is not None for one in seen))
                yield part

        return fit_token_pca(watched())

    monkeypatch.setattr(survey, "fit_token_pca", fit)
    assert survey.survey(request_of(shards, tmp_path / "r.html")) is not None
    assert len(alive) == 13 and max(alive) <= 2, "the part that is read and the one before"


def test_classes_that_do_not_fit_into_memory_are_left_out_with_a_note(
    finished, shards, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(selectivity, "MOST_CELLS", 1000)
    found = report(finished("sae"), shards, tmp_path / "r.html", "--pictures", "1")
    assert "note: class selectivity is left out: 3 classes need" in capsys.readouterr().out
    assert "selectivity" not in found and "auroc" not in found["rows"][0]
    assert found["notes"][0].startswith("class selectivity is left out")
    assert "class selectivity is left out" in (tmp_path / "r.html").read_text()


def test_a_stopped_command_and_a_job_array_write_the_report_of_one(
    finished, shards, small_parts, tmp_path, capsys
):
    def command(name: str, *options: str) -> int:
        words = ["sae-report", str(finished("sae")), "--test", shards, "--workers", "0"]
        return main([*words, "--out", str(tmp_path / name / "r.html"), *options])

    assert command("one") == 0
    with stopped_after(4), pytest.raises(Stopped):
        command("stopped")
    assert not (tmp_path / "stopped" / "r.html").exists()
    assert command("stopped") == 0
    assert "resuming" in capsys.readouterr().err
    assert command("array", "--part", "2/2") == 0 == command("array", "--part", "1/2")
    assert not (tmp_path / "array" / "r.html").exists()
    assert command("array", "--join") == 0
    for file in ("r.html", "r.json"):
        texts = {(tmp_path / name / file).read_text() for name in ("one", "stopped", "array")}
        assert len(texts) == 1, file


@pytest.mark.parametrize("latent", ["vector", "map"])
def test_a_sparse_autoencoder_of_images_has_a_report(latent, shards, tmp_path, capsys):
    settings = {"latent_dim": 32, "k": 4, "aux_k": 4, "latent": latent}
    run = untrained_run(tmp_path / "run", small_config("sparse", 3, **settings))
    found = report(run, shards, tmp_path / "r.html", "--untrained", str(run))
    assert found["latents"] == 32 and found["untrained"]["explained"] == found["explained"]
    if latent == "vector":
        assert found["by_place"] == 0, "there is one place"


def test_images_without_labels_have_no_selectivity(finished, make_shards, tmp_path):
    unlabelled = make_shards(tmp_path / "u", 6, size=(20, 24), labels=False)
    found = report(finished("sae"), unlabelled, tmp_path / "r.html")
    assert "selectivity" not in found and "auroc" not in found["rows"][0]


def test_wrong_use_is_refused_in_one_line(finished, shards, tmp_path, capsys):
    words = ["sae-report", str(finished("sae")), "--test", shards, "--out"]
    assert main([*words, str(tmp_path / "r.txt")]) == 2
    assert "must end in .html" in capsys.readouterr().err
    out = str(tmp_path / "r.html")
    assert main([*words, out, "--untrained", str(finished("sae")), "--join"]) == 2
    assert "not for job arrays" in capsys.readouterr().err
