"""`mae bench joint`: a training run compared with its step."""

import pytest

from mae.base.errors import RunFailed, UserError
from mae.commands.bench import joint
from mae.commands.bench.cases import Case
from mae.commands.bench.joint import bench_joint, bottleneck, joint_table
from mae.commands.bench.rounds import Effort
from mae.config.sections import DataConfig

TINY = Case(encoder="vit_tiny_patch16_224", img_size=32, decoder_depth=1, batch_size=4)


class FakeStep:
    """A step of 20 ms, or one that is out of memory."""

    is_out_of_memory = False

    def round(self, seconds):
        return {"seconds": 0.02, "steps": 5, "memory": None}


@pytest.fixture
def fake_step(monkeypatch):
    only = FakeStep()

    class Fake:
        def __init__(self, tasks, environment, at_once):
            assert list(tasks.values()) == [TINY._asdict()]

        def __enter__(self):
            return {joint.STEP: only}

        def __exit__(self, *details):
            pass

    monkeypatch.setattr(joint, "Children", Fake)
    return only


@pytest.fixture(scope="module")
def shards(tmp_path_factory, make_shards):
    return make_shards(tmp_path_factory.mktemp("shards"), 10, size=(40, 50), labels=False)


def test_a_real_run_trains_on_the_shards(shards, fake_step):
    progress = []
    result = bench_joint(
        [shards],
        TINY,
        workers=0,
        effort=Effort(rounds=2, seconds=0.1),
        progress=lambda *news: progress.append(news),
    )
    assert result["step"]["images_per_s"] == {"median": 200, "low": 200, "high": 200}
    loop = result["loop"]
    assert loop["images_per_s"]["median"] > 0 and 0 < loop["data_wait"] < 1
    assert result["share"] == loop["images_per_s"]["median"] / 200
    assert result["images"] == 10 and [done for _, done, _ in progress] == [1, 2, 3]
    text = joint_table(result)
    assert "vit_tiny_patch16_224, batch 4, eager, 0 data workers" in text
    assert "| run, 10 images in shards |" in text and result["bottleneck"] in text


@pytest.mark.parametrize("on_device", ["", "crop", "decode"])
def test_crops_or_decoding_on_the_device(shards, fake_step, monkeypatch, on_device):
    settings = []

    def run_loop(config, *arguments, **named):
        settings.extend([config.data.crop_on_device, config.data.decode_on_device])
        return [{"images_per_second": 100.0, "data_wait": 0.2}] * 2

    monkeypatch.setattr(joint, "run_loop", run_loop)
    result = bench_joint([shards], TINY, workers=1, on_device=on_device)
    assert settings == [on_device == "crop", on_device == "decode"]
    assert (f"1 data workers, {on_device} on the device" in joint_table(result)) == bool(on_device)


def test_the_first_interval_is_not_counted(shards, tmp_path, monkeypatch):
    """Two rounds of 5 steps after 5 steps of warm-up, each a row of metrics."""
    seen = {}

    def run(command, **options):
        path = tmp_path / "run" / "metrics.jsonl"
        path.parent.mkdir()
        lines = [f'{{"step": {n}, "images_per_second": {n}}}\n' for n in (1, 5, 10, 15)]
        path.write_text("".join(lines))
        seen.update(text=(tmp_path / "joint.yaml").read_text(), command=command)
        return type("Done", (), {"returncode": 0, "stderr": ""})

    monkeypatch.setattr(joint.subprocess, "run", run)
    rows = joint.run_loop(TINY.config(), 10, 5, 2, tmp_path, "cpu")
    assert [row["step"] for row in rows] == [10, 15]
    assert f"epochs: {14.5 * 4 / 10}" in seen["text"] and "every: 5" in seen["text"]


@pytest.mark.parametrize(("code", "kind"), [(2, UserError), (1, RunFailed)])
def test_a_failed_run_is_reported_with_its_last_lines(code, kind, tmp_path, monkeypatch):
    done = type("Done", (), {"returncode": code, "stderr": "mae: data.train: no such shard"})
    monkeypatch.setattr(joint.subprocess, "run", lambda *args, **options: done)
    with pytest.raises(kind, match=f"ended with code {code}: mae: data.train: no such shard"):
        joint.run_loop(TINY.config(), 10, 5, 2, tmp_path, "cpu")


def test_refusals(shards, fake_step):
    with pytest.raises(UserError, match="10 images in the shards, but a batch has 64"):
        bench_joint([shards], TINY._replace(batch_size=64), workers=0)
    fake_step.is_out_of_memory = True
    with pytest.raises(UserError, match="4 images do not fit into memory"):
        bench_joint([shards], TINY, workers=0)


def test_bottleneck(monkeypatch):
    monkeypatch.setattr(joint, "usable_cores", lambda: 8)
    data = DataConfig(workers=4)
    assert bottleneck(0.97, 0.02, data).endswith("the step is the bottleneck.")
    assert bottleneck(0.5, 0.5, data) == (
        "Data is the bottleneck: 2.00 times as fast without waiting for it. "
        "Remedies: data.workers=8 (there are 8 cores), mae pack --resize, data.repeats=2."
    )
    assert "compete for the cores (fewer data.workers)" in bottleneck(0.5, 0.1, data)


def test_the_run_keeps_the_config_files_settings_except_data(toy):
    case = Case(config_file=str(toy), batch_size=4)
    config = case._replace(settings="data.val=no.tar,init.from=no/run").config()
    found = joint.config_on(config, ["a.tar"], 2, "crop", None)
    assert found.data.train == ("a.tar",) and found.data.val == () and not found.init.from_
    assert found.data.img_size == (16, 16) and found.data.crop_on_device
    assert found.data.mean == (0.5, 0.5, 0.5) and found.data.workers == 2
