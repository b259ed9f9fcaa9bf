"""Format plain: all weights under their own names, of this package's objectives and others."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tests.toy
from mae.base.errors import RunFailed, UserError
from mae.cli import main
from mae.config.sections import Config, InitConfig, TrainConfig
from mae.export.folder import hub_code
from mae.export.plain import without_local_paths, write_plain
from mae.objectives import registry
from mae.training.checkpoint.trained import load_plain, load_pretrained, read_description
from tests.export.models import export_request, exported, images_of
from tests.runs import same_weights
from tests.toy.runs import toy_config
from tests.untrained import classifier_config, tiny_config, untrained_run


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(registry.OBJECTIVES, "toy", "tests.toy")


def export(run, out, *options) -> int:
    return main(["export", str(run), str(out), "--images", "noise", *options])


@pytest.mark.usefixtures("toy", "in_process")
def test_plain_is_the_default_without_a_timm_encoder(tmp_path, make_shards, capsys):
    config = toy_config(make_shards(tmp_path / "shards", 12, size=24))
    run, out = untrained_run(tmp_path / "run", config), tmp_path / "out"
    assert main(["export", str(run), str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"{out}: the model of step 6, checked through mae on 8 images of the run's" in printed
    assert f'load_plain("{out}")' in printed
    files = {"README.md", "config.json", "model.safetensors"}
    assert {path.name for path in out.iterdir()} == files
    weights = load_file(run / "checkpoints" / "step-000000006" / "model.safetensors")
    assert same_weights(load_file(out / "model.safetensors"), weights)
    content = json.loads((out / "config.json").read_text())
    assert (content["format"], content["format_version"]) == ("plain", 1)
    assert (content["objective"], content["step"], content["samples"]) == ("toy", 6, 48)
    assert content["data"] == "f" * 64
    assert str(tmp_path) not in (out / "config.json").read_text() + (out / "README.md").read_text()

    _, trained, _ = load_pretrained(run)
    read, rebuilt, state = load_plain(out)
    assert read == without_local_paths(config) and state.step == 6
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    found, expected = (one.encode(images).pooled["latents"] for one in (rebuilt, trained))
    assert torch.equal(found, expected)


@pytest.mark.usefixtures("toy", "in_process")
def test_the_card_has_the_objective_s_own_words(tmp_path):
    run, out = untrained_run(tmp_path / "run", toy_config()), tmp_path / "out"
    assert export(run, out) == 0
    card = (out / "README.md").read_text()
    for part in (
        "tags: [pytorch]",
        "# toy, trained by mae ",
        "\nVariational autoencoder (for tests).\n",
        "| model | toy, 0.01 M parameters |",
        "| objective | variational autoencoder (for tests) |",
        "Images come as integers of 8 bits, from black, 0, to white, 255. Mae computed the same",
        'load_plain("out")',
    ):
        assert part in card, part
    for word in ("vision-transformer", "encoder |", "Masked", "{"):
        assert word not in card, word


def test_objective_of_another_package_is_checked_in_a_fresh_process(tmp_path, monkeypatch):
    shutil.copytree(Path(tests.toy.__file__).parent, tmp_path / "elsewhere" / "othertoy")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    monkeypatch.setitem(registry.OBJECTIVES, "toy", "othertoy")
    run = untrained_run(tmp_path / "run", toy_config())
    assert export(run, tmp_path / "out") == 0


@pytest.mark.parametrize("config", [tiny_config(), classifier_config()], ids=["mae", "classifier"])
@pytest.mark.usefixtures("in_process")
def test_any_objective_exports_all_weights(tmp_path, config):
    run, out = untrained_run(tmp_path / "run", config), tmp_path / "out"
    assert export(run, out, "--format", "plain") == 0
    _, objective, _ = load_pretrained(run)
    assert same_weights(load_file(out / "model.safetensors"), objective.state_dict())


@pytest.mark.usefixtures("toy", "in_process")
def test_averaged_weights_are_exported(tmp_path):
    run = untrained_run(tmp_path / "run", toy_config(train=TrainConfig(ema=0.5)))
    assert export(run, tmp_path / "out") == 0
    weights = load_file(run / "checkpoints" / "step-000000006" / "model.safetensors")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(found["decoder.bias"], weights["average.decoder.bias"])
    assert not torch.equal(found["decoder.bias"], weights["decoder.bias"])
    assert torch.equal(found["center"], weights["center"])
    assert "weights averaged with decay 0.5" in (tmp_path / "out" / "README.md").read_text()


def test_other_image_size_is_recorded(tmp_path, in_process):
    exported("plain", export_request(img_size=(32, 24)), tmp_path / "out")
    config, objective, _ = load_plain(tmp_path / "out")
    assert config.data.img_size == objective.img_size == (32, 24)


@pytest.mark.parametrize("bits", [8, 16])
def test_check_with_8_and_16_bits(tmp_path, in_process, bits):
    request = export_request(bits=bits, in_chans=2)
    assert exported("plain", request, tmp_path / "out").max_error == 0


def tampered(change):
    """`save_file` that writes other tensors."""

    def save(tensors, path, metadata):
        save_file(change(dict(tensors)), path, metadata)

    return save


KEY = "encoder.norm.bias"


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors | {KEY: tensors[KEY].nextafter(torch.tensor(9.0))},
        lambda tensors: tensors | {KEY: tensors[KEY].double()},
        lambda tensors: tensors | {KEY: tensors[KEY][None]},
        lambda tensors: {key: tensor for key, tensor in tensors.items() if key != KEY},
        lambda tensors: tensors | {KEY.replace("bias", "other"): tensors[KEY].clone()},
    ],
    ids=["last bit", "type", "shape", "missing", "unknown"],
)
def test_changed_tensor_is_detected(tmp_path, in_process, monkeypatch, change):
    monkeypatch.setattr("mae.export.plain.save_tensors", tampered(change))
    with pytest.raises(
        RunFailed,
        match=r"not written: mae cannot load it: .*encoder.norm.* differs from",
    ):
        exported("plain", export_request(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_settings_of_another_model_are_detected(tmp_path, in_process, monkeypatch):
    def wrong(config: Config) -> Config:
        data = config.data.model_copy(update={"mean": (0.5, 0.5, 0.5)})
        return config.model_copy(update={"data": data})

    monkeypatch.setattr("mae.export.plain.without_local_paths", wrong)
    with pytest.raises(
        RunFailed, match=r"not written: mae computes other .*: relative difference .* 1e-06"
    ):
        exported("plain", export_request(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_settings_contain_no_local_paths():
    init = InitConfig.model_validate({"from": "/home/me/runs/first"})
    shards = "/data/a-{000..003}.tar"
    config = tiny_config(output="/home/me/runs/second", init=init)
    data = config.data.model_copy(update={"train": (shards,), "index_dir": Path("/data/index")})
    found = without_local_paths(config.model_copy(update={"data": data}))
    assert (found.output, found.init.from_) == ("second", "first")
    assert found.data.train == ("a-{000..003}.tar",) and found.data.index_dir is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pool", "avg"], "--pool avg: needs a timm encoder, which this model does not have"),
        (
            ["--img-size", "32"],
            "--img-size: needs a timm encoder, which objective toy does not have",
        ),
        (["--no-decoder"], "--no-decoder: not supported by --format plain: it exports all weights"),
        (
            ["--format", "hf"],
            "--format hf: not a format of objective toy; its formats: plain",
        ),
    ],
)
@pytest.mark.usefixtures("toy")
def test_unsupported_options_are_refused_in_one_line(tmp_path, capsys, options, message):
    run, out = untrained_run(tmp_path / "run", toy_config()), tmp_path / "out"
    assert export(run, out, *options) == 2
    assert capsys.readouterr().err == f"mae: {message}\n"
    assert not out.exists()


@pytest.mark.parametrize(
    ("config", "format", "formats"),
    [
        (
            tiny_config(),
            "gguf",
            "not a format of objective mae; its formats: timm, onnx, torch, mae, hf, plain",
        ),
        (
            classifier_config(),
            "gguf",
            "not a format of objective classifier; its formats: timm, onnx, torch, mae, hf, plain",
        ),
    ],
)
def test_unknown_format_is_refused(tmp_path, capsys, config, format, formats):
    run = untrained_run(tmp_path / "run", config)
    assert export(run, tmp_path / "out", "--format", format) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--format {format}: {formats}" in line


def test_damaged_description_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no plain export here \(no config.json\)"):
        read_description(tmp_path)
    for content, message in (
        ("{", "cannot be read"),
        ("[]", "describes no plain export"),
        ('{"format": "plain", "format_version": 2}', "install a newer one"),
        ('{"format": "plain", "format_version": 1}', "damaged"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError, match=message) as error:
            read_description(tmp_path)
        assert "\n" not in str(error.value)


def test_pool_is_refused(tmp_path):
    request = export_request(pool="avg")._replace(options=frozenset({"--pool"}))
    with pytest.raises(UserError, match="--pool: not supported by --format plain"):
        write_plain(tmp_path, request, images_of(request))
    assert not list(tmp_path.iterdir())


def test_hub_code_downloads_the_folder():
    text = hub_code('model = load_plain("FOLDER")', "me/x")
    assert text.startswith("from huggingface_hub import snapshot_download\n")
