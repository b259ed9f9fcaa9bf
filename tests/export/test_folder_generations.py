"""Licence and history of initial weights, from export to export over several runs."""

import shutil
from pathlib import Path

import pytest
import yaml

from mae.base.files import write_json
from mae.cli import main
from mae.config.sections import InitConfig
from mae.pretrained_weights.find import find_weights
from mae.pretrained_weights.licence import Licence
from mae.pretrained_weights.start import initialize
from mae.training.checkpoint.trained import build_objective
from tests.untrained import classifier_config, tiny_config, untrained_run

FROM = "someone/model.safetensors"
STEP = "checkpoints/step-000000006"


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """Skip the check of exported weights, which is tested elsewhere."""
    monkeypatch.setattr("mae.export.folder.check_export", lambda *_: 0.0)


def first_run(folder, licence, non_commercial=True):
    """Run that started from weights of others under `licence`."""
    run = untrained_run(folder, tiny_config(init=init_of(FROM)))
    write_json(run / "init.json", {"license": licence, "non_commercial": non_commercial})
    return run


def run_from(folder, source, config=tiny_config):
    """Run of the next generation, which starts from `source`."""
    settings = config(init=init_of(source))
    run = untrained_run(folder, settings)
    done = initialize(build_objective(settings), settings)
    write_json(run / "init.json", done.record)
    return run


def init_of(source):
    return InitConfig.model_validate({"from": str(source)})


def export(run, out, format="timm"):
    arguments = [str(run), str(out), "--format", format, "--images", "noise"]
    assert main(["export", *arguments]) == 0
    return out


def card_of(out) -> tuple[dict, str]:
    _, metadata, text = (out / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(metadata), text


@pytest.mark.parametrize(
    ("format", "place"),
    [
        (None, ""),
        (None, STEP),
        (None, f"{STEP}/model.safetensors"),
        ("timm", ""),
        ("timm", "model.safetensors"),
        ("mae", "mae.pth"),
        ("mae", "mae.safetensors"),
        ("hf", ""),
        ("hf", "encoder"),
        ("hf", "encoder/model.safetensors"),
    ],
)
@pytest.mark.parametrize("licence", ["CC BY-NC 4.0", "Research only, ask us", None])
def test_licence_is_kept_over_two_generations(tmp_path, format, place, licence):
    run = first_run(tmp_path / "0", licence)
    for generation in (1, 2):
        source = export(run, tmp_path / f"export{generation}", format) if format else run
        found = find_weights(str(source / place)).licence
        assert found.non_commercial and not found.from_scratch
        name = found.name and found.name.lower().replace(", ", "-").replace(" ", "-")
        assert name == (licence and licence.lower().replace(", ", "-").replace(" ", "-"))
        run = run_from(tmp_path / str(generation), source / place)


def test_unknown_licence_name_is_written_as_other(tmp_path):
    run = first_run(tmp_path / "run", "CC BY-NC 4.0")
    metadata, text = card_of(export(run, tmp_path / "out"))
    assert (metadata["license"], metadata["license_name"]) == ("other", "cc-by-nc-4.0")
    assert metadata["non_commercial"] is True
    assert "**CC BY-NC 4.0**" in text and "forbids commercial use of those weights" in text
    run = first_run(tmp_path / "free", "apache-2.0", non_commercial=False)
    metadata, _ = card_of(export(run, tmp_path / "free-out"))
    assert metadata["license"] == "apache-2.0"
    assert not {"license_name", "non_commercial"} & metadata.keys()


def test_licence_of_a_linked_checkpoint_file(tmp_path, monkeypatch):
    run = first_run(tmp_path / "run", "cc-by-nc-4.0")
    out = export(run, tmp_path / "out", "mae")
    (tmp_path / "link.safetensors").symlink_to(run / STEP / "model.safetensors")
    expected = Licence("cc-by-nc-4.0", non_commercial=True)
    assert find_weights(str(tmp_path / "link.safetensors")).licence == expected
    monkeypatch.chdir(out)
    assert find_weights("mae.pth").licence == expected
    monkeypatch.chdir(run / STEP)
    assert find_weights("model.safetensors").licence == expected


def test_foreign_file_in_a_run_folder_is_not_from_scratch(tmp_path):
    run = untrained_run(tmp_path / "run", tiny_config())
    shutil.copy(run / STEP / "model.safetensors", run / "downloaded.safetensors")
    assert find_weights(str(run / STEP / "model.safetensors")).licence.from_scratch
    assert not find_weights(str(run / "downloaded.safetensors")).licence.from_scratch


def test_file_of_the_papers_release_is_recognised_by_name(tmp_path):
    run = untrained_run(tmp_path / "run", tiny_config())
    file = tmp_path / "mae_pretrain_vit_tiny.safetensors"
    shutil.copy(run / STEP / "model.safetensors", file)
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert find_weights(str(file)).licence == ("cc-by-nc-4.0", True, False)


@pytest.mark.parametrize("place", ["", STEP, f"{STEP}/model.safetensors"])
def test_weights_from_scratch_have_no_licence_of_others(tmp_path, place):
    source = untrained_run(tmp_path / "source", tiny_config())
    for name in ("tuned", "again"):  # the second from the first: nobody else's went in either
        config = tiny_config if name == "tuned" else classifier_config
        run = run_from(tmp_path / name, source / place, config)
        metadata, text = card_of(export(run, tmp_path / f"{name}-out"))
        assert "license" not in metadata
        assert (
            "To be chosen by the owner of the training data; no weights of others were used."
            in text
        )
        assert "unknown" not in text and str(tmp_path) not in text
        source = run


def test_run_without_its_record_is_not_from_scratch(tmp_path):
    run = untrained_run(tmp_path / "run", tiny_config(init=init_of(FROM)))
    _, text = card_of(export(run, tmp_path / "out"))
    assert "from `model.safetensors`, 48 images" in text and "**unknown, ask" in text
    assert find_weights(str(run)).licence == Licence()
    lost = tiny_config(init=init_of("timm:vit_tiny_patch16_224.mae"))
    run = untrained_run(tmp_path / "lost", lost)
    assert find_weights(str(run)).licence.non_commercial


def test_card_of_a_classifier_describes_the_pretraining(tmp_path):
    source = untrained_run(tmp_path / "pretrained", tiny_config())
    run = run_from(tmp_path / "tuned", source, classifier_config)
    metadata, text = card_of(export(run, tmp_path / "out"))
    assert "fine-tuned to 3 classes" in text and "from `pretrained`, 48 images" in text
    assert (
        "| pretraining | masked autoencoding (mask ratio 0.75, pixels normalised per patch) of "
        "`gone.tar`, 48 images seen in 6 steps of 4096 (800 epochs planned), blr 0.00015, weight "
        "decay 0.05, seed 0, from scratch |"
    ) in text
    assert metadata["tags"] == ["timm", "vision-transformer", "masked-autoencoder"]
    # and one that starts from that one knows of both
    again = run_from(tmp_path / "again", run / STEP, lambda **s: classifier_config(ema=0, **s))
    _, text = card_of(export(again, tmp_path / "again-out"))
    assert "| pretraining | classification into 3 classes of `gone.tar`, 48 images" in text
    assert "from `pretrained` (masked autoencoding (mask ratio" in text
    assert "from `tuned/checkpoints/step-000000006`" in text


def test_card_of_a_classifier_from_scratch(tmp_path):
    run = untrained_run(tmp_path / "run", classifier_config())
    metadata, text = card_of(export(run, tmp_path / "out"))
    assert "trained from scratch on 3 classes" in text and "fine-tuned" not in text
    assert "| training | from scratch" in text and "| pretraining |" not in text
    assert metadata["tags"] == ["timm", "vision-transformer"]


def test_card_contains_no_local_paths(tmp_path):
    run = run_from(Path(tmp_path / "b"), untrained_run(tmp_path / "a", tiny_config()))
    _, text = card_of(export(run, tmp_path / "out"))
    assert "from `a`" in text and str(tmp_path) not in text
