"""`mae export` on a run folder with untrained weights."""

import pytest
import torch
from PIL import Image

from mae.cli import main
from mae.commands.export import check_images, own_images
from mae.commands.numbered_images import FileImages, load_images, open_numbered
from mae.config.sections import DataConfig, InitConfig, MixturePart
from mae.pack.packed_folders import packed_folder
from mae.pretrained_weights.start import initialize
from mae.training.checkpoint.checkpoint_files import TrainingState, reserve, write_checkpoint
from mae.training.checkpoint.run import Run
from mae.training.checkpoint.snapshot import CheckpointTensors
from mae.training.checkpoint.trained import build_objective
from tests.export.models import config_of
from tests.servers import body, web_server


@pytest.fixture
def run(tmp_path, make_shards):
    """Run with checkpoints of steps 3 and 6, two training shards and missing held-out data."""
    return untrained_run(tmp_path, make_shards)


def untrained_run(tmp_path, make_shards, **settings):
    """Run folder like `run`, with further settings of the model."""
    shards = make_shards(tmp_path / "shards", 12, size=24)
    data = DataConfig(
        train=(shards,), val=(f"{tmp_path}/gone.tar",), crop_pct=1.0, img_size=(16, 16)
    )
    model = config_of().model.model_copy(update=settings)
    config = config_of().model_copy(update={"data": data, "model": model})
    run = Run(tmp_path / "run")
    run.open(config)
    model = build_objective(config)
    for step in (3, 6):
        state = TrainingState(step, 8 * step, "f" * 64)
        part = reserve(run.checkpoints, state, 0)
        write_checkpoint(part, CheckpointTensors(model.state_dict(), {}), state)
    return run


def test_run_or_checkpoint_is_exported(run, tmp_path, in_process, capsys):
    assert main(["export", str(run.folder), str(tmp_path / "newest")]) == 0
    printed = capsys.readouterr().out
    assert "the encoder of step 6, checked through timm on 8 images of the run's data.t" in printed
    assert f'timm.create_model("local-dir:{tmp_path}/newest"' in printed
    chosen = run.checkpoints / "step-000000003"
    assert main(["export", str(chosen), str(tmp_path / "chosen"), "--no-decoder"]) == 0
    assert "the encoder of step 3" in capsys.readouterr().out
    assert not (tmp_path / "chosen" / "decoder.safetensors").exists()


@pytest.mark.parametrize(("format_", "goes_along"), [("timm", True), ("mae", False)])
@pytest.mark.usefixtures("in_process")
def test_decoder_with_cross_attention(format_, goes_along, tmp_path, make_shards, capsys):
    """It is exported to our own file, and skipped in formats without names for it."""
    run = untrained_run(tmp_path, make_shards, decoder_attention="cross")
    out = tmp_path / "out"
    assert main(["export", str(run.folder), str(out), "--format", format_]) == 0
    assert ("has no names for a decoder" in capsys.readouterr().out) is not goes_along
    assert (out / "decoder.safetensors").exists() is goes_along
    config = run.config()
    again, other = build_objective(config), build_objective(config).state_dict()
    again.load_state_dict({key: torch.zeros_like(value) for key, value in other.items()})
    source = out if goes_along else out / "mae.safetensors"
    init = InitConfig.model_validate({"from": str(source)})
    loaded = initialize(again, config.model_copy(update={"init": init}))
    assert ("decoder tensors" in loaded.lines[0]) is goes_along
    key = "decoder.pred.weight"
    assert torch.equal(again.state_dict()[key], other[key]) is goes_along


def test_options_choose_images_size_and_pooling(run, tmp_path, in_process, capsys):
    options = ["--images", f"{tmp_path}/shards/shard-000001.tar", "--img-size", "32,24"]
    out = tmp_path / "out"
    assert main(["export", str(run.folder), str(out), *options, "--pool", "avg"]) == 0
    printed = capsys.readouterr().out
    assert "on 4 images of " in printed and "shard-000001.tar" in printed
    assert '"img_size": [\n      32,\n      24\n    ]' in (out / "config.json").read_text()
    assert "mean of the patch tokens" in (out / "README.md").read_text()


def test_noise_is_used_on_request_only(run, tmp_path, in_process, capsys):
    """An export without `--images noise` fails where the run's own images are gone."""
    for shard in (tmp_path / "shards").glob("*.tar"):
        shard.unlink()
    out = tmp_path / "out"
    assert main(["export", str(run.folder), str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mae: --images: none of the run's own can be read (data.val: no such")
    assert "; data.train: no such shard" in line
    assert line.endswith("or --images noise")
    assert not out.exists()
    assert main(["export", str(run.folder), str(out), "--images", "noise"]) == 0
    assert "checked through timm on noise (--images noise)" in capsys.readouterr().out
    assert "computed the same on noise (--images noise)" in (out / "README.md").read_text()


def test_images_of_a_mixture_are_used(run, tmp_path, capsys):
    config = run.config()
    gone, there = (f"{tmp_path}/{name}/shard-*.tar" for name in ("gone", "shards"))
    parts = (MixturePart(shards=(gone,)), MixturePart(shards=(there,)))
    data = config.data.model_copy(update={"train": (), "mixture": parts})
    settings = config.model_copy(update={"data": data})
    images, photograph, described = check_images(None, settings, (16, 16))
    assert photograph.shape == (3, 24, 24), "whole: the printed code crops it"
    assert described == "8 images of the run's data.mixture.1"
    assert images.shape == (8, 3, 16, 16) and images.dtype == torch.uint8


def test_of_a_folder_the_copy_is_used_or_the_files_and_nothing_is_packed(
    run, tmp_path, make_image, capsys
):
    photos, place = tmp_path / "photos", tmp_path / "packed"
    photos.mkdir()
    (photos / "0.png").write_bytes(b"no image")
    for number in range(1, 7):
        Image.fromarray(make_image(number, 24)).save(photos / f"{number}.png")
    config = run.config()
    data = config.data.model_copy(update={"train": (str(photos),), "val": (), "packed_dir": place})
    settings = config.model_copy(update={"data": data})

    def is_of_files():
        return isinstance(own_images(str(photos), "data.train", settings, (16, 16)), FileImages)

    of_files = check_images(None, settings, (16, 16))
    assert of_files.description == "6 images of the run's data.train"
    assert is_of_files() and not place.exists()
    packed_folder(str(photos), packed_dir=place)
    assert not is_of_files()
    made = set(place.iterdir())
    capsys.readouterr()
    of_copy = check_images(None, settings, (16, 16))
    (photos / "7.png").write_bytes((photos / "1.png").read_bytes())  # the folder has changed
    assert is_of_files() and check_images(None, settings, (16, 16)).images.shape[0] == 7
    assert set(place.iterdir()) == made and "packed" not in capsys.readouterr().err
    held = [{image.numpy().tobytes() for image in one.images} for one in (of_files, of_copy)]
    assert held[0] == held[1] and len(held[0]) == 6


def test_one_remote_shard_is_downloaded_at_most(run, tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    shards = sorted((tmp_path / "shards").glob("*.tar"))
    config = run.config()
    with web_server() as server:
        for shard in shards:
            server.serve(f"/{shard.name}", body(shard.read_bytes(), etag='"1"'))
        places = {"cache_dir": tmp_path / "cache", "index_dir": tmp_path / "index"}
        pattern = f"{server.url}/shard-{{000000..000001}}.tar"
        data = config.data.model_copy(update={"train": (pattern,), **places})
        remote = config.model_copy(update={"data": data})
        images, _, described = check_images(None, remote, (16, 16))
        assert server.gets(f"/{shards[0].name}") == 1 and not server.gets(f"/{shards[1].name}")
    assert described == "8 images of the run's data.train"
    found = open_numbered([str(shards[0])], config, (16, 16))
    local = load_images(found, (16, 16), 8).images
    assert torch.equal(images, local)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["{run}", "{out}", "--format", "hf", "--pool", "avg"],
            "--pool: not supported by --format hf",
        ),
        (
            ["{run}", "{out}", "--img-size", "20"],
            "--img-size: 20 x 20 does not divide into patches",
        ),
        (["{run}", "{out}", "--images", "{out}.tar"], "no such shard"),
        (["{run}", "{out}", "--push", "a//b"], "--push a//b: "),
        (["{run}/checkpoints/step-000000006", "{out}"], "model.safetensors is damaged"),
        (["{run}/checkpoints/step-000000009", "{out}"], "no readable checkpoint"),
        (["{run}/panels", "{out}"], "neither a run (config.yaml) nor a model"),
    ],
)
def test_wrong_use_is_refused_in_one_line(run, tmp_path, capsys, arguments, message):
    damaged = run.checkpoints / "step-000000006" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    filled = [argument.format(run=run.folder, out=tmp_path / "out") for argument in arguments]
    assert main(["export", *filled]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0]
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_failed_upload_keeps_the_export(run, tmp_path, in_process, capsys, monkeypatch):
    class Hub:
        def create_repo(self, *given, **options):
            raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "a token")
    out = tmp_path / "out"
    assert main(["export", str(run.folder), str(out), "--push", "me/encoder"]) == 1
    output = capsys.readouterr()
    assert (
        f"mae: --push me/encoder: not uploaded: no route to host; {out} is complete" in output.err
    )
    assert "checked through timm" in output.out
    assert (out / "model.safetensors").exists()
    assert 'timm.create_model("hf-hub:me/encoder"' in (out / "README.md").read_text()
    assert f'timm.create_model("local-dir:{out}"' in output.out


def test_img_size_is_one_number_or_two(run, tmp_path, capsys):
    for text in ("0", "a", "16,", "16,0", "1,2,3"):
        with pytest.raises(SystemExit) as stopped:
            main(["export", str(run.folder), str(tmp_path / "out"), "--img-size", text])
        assert stopped.value.code == 2, text
        assert "--img-size" in capsys.readouterr().err
