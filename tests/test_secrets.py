"""Signed addresses and commands with tokens: their secrets are in no file and on no output."""

import json
from pathlib import Path

import pytest
import yaml

from mae.cli import main
from tests.anomaly.surfaces import shard
from tests.runs import write_config
from tests.servers import body, status

SECRET = "s3cr3tW0rdOfMine"
OTHER = "an0therS3cr3t"


@pytest.fixture
def signed(server, shards, tmp_path, monkeypatch, in_process):
    """Signed address of a shard, whose server is given the password, too."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    data = sorted(Path(shards).parent.glob("*.tar"))[0].read_bytes()
    address = server.serve("/a.tar", body(data)).replace("://", f"://me:{SECRET}@")
    return f"{address}?X-Amz-Signature={SECRET}&part=1"


def assert_secrets_are_nowhere(folder: Path, printed: str) -> None:
    for secret in (SECRET, OTHER):
        assert secret not in printed
        for path in folder.rglob("*"):
            assert secret not in path.name
            if path.is_file() and path.name != "tiny.yaml":
                assert secret.encode() not in path.read_bytes(), path


def test_no_command_writes_or_prints_a_secret(signed, server, tmp_path, capsys):
    config, run, out = write_config(tmp_path, signed), tmp_path / "run", tmp_path / "out"
    settings = ["train.epochs=2", "log.tensorboard=true", "log.health_every=1"]
    assert main(["pretrain", str(config), f"data.val={signed}", *settings]) == 0
    recorded = yaml.safe_load((run / "config.yaml").read_text())
    assert recorded["data"]["train"] == [f"{server.url}/a.tar?…"]
    data = ["--train", signed, "--test", signed]
    lines = [
        # Resumed: with another signature, and nothing has changed.
        ["pretrain", str(config), f"data.val={signed.replace('part=1', 'part=2')}", *settings],
        ["report", str(run)],
        ["inspect-batch", str(run), "2", "--train", signed],
        ["reconstruct", str(run), signed],
        ["neighbours", str(run), signed, "--among", signed],
        ["features", str(run), signed, "--out", f"{out}/f.safetensors"],
        ["knn", str(run), *data],
        ["probe", str(run), *data, "--splits", "1"],
        ["segment", str(run), *data],
        ["export", str(run), f"{out}/timm", "--images", signed],
        ["export", str(run), f"{out}/plain", "--images", signed, "--format", "plain"],
        ["verify", signed, "--workers", "0"],
        ["index", signed],
        ["index", f"{signed}&again={SECRET}", signed],
        ["finetune", str(run)],
        ["inspect-batch", str(run), "2"],
    ]
    out.mkdir()
    codes = [main(line) for line in lines]
    printed = capsys.readouterr()
    assert codes == [*[0] * 8, 2, *[0] * 5, 2, 2], printed.err
    assert f"data.train: {server.url}/a.tar: its secret" in printed.err
    assert "its secret part was not recorded with the run: give the shards again" in printed.err
    assert "changed:" not in printed.out
    assert "`a.tar`" in (out / "timm" / "README.md").read_text()
    assert_secrets_are_nowhere(tmp_path, printed.out + printed.err)


def test_errors_of_servers_and_commands_are_without_secrets(
    signed, server, shards, tmp_path, capsys, reference_run
):
    refused = server.serve("/b.tar", status(403)) + f"?sig={SECRET}"
    command = (
        f"pipe:curl -H 'Authorization: Bearer {SECRET}' -u me:{OTHER} file:///nothing {SECRET}"
    )
    noisy = f"pipe:echo {OTHER} is wrong >&2; exit 3"
    run = str(reference_run.folder)
    lines = [
        ["verify", refused],
        ["index", f"https://host.invalid/{{a.tar?token={SECRET}"],
        ["index", command],
        ["features", run, command, "--out", f"{tmp_path}/f.safetensors"],
        ["index", f"s4://me:{SECRET}@box/a.tar?token={SECRET}"],
        ["index", signed, signed],
    ]
    lines += [["index", noisy, "--allow-pipe"], ["verify", noisy, "--allow-pipe"]]
    assert [main(line) for line in lines] == [2] * len(lines)
    printed = capsys.readouterr()
    assert "HTTP 403" in printed.err and "exit code 3" in printed.err
    assert "named twice" in printed.err
    assert_secrets_are_nowhere(tmp_path, printed.out + printed.err)


def test_a_run_records_a_bad_image_of_a_command_without_its_words(
    shards, make_tar, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    members = [(f"{number}.png", b"no image") for number in range(1)]
    bad = make_tar(tmp_path / "bad.tar", members)
    good = sorted(Path(shards).parent.glob("*.tar"))[0]
    command = f"pipe:TOKEN={SECRET} cat {{}}"
    train = json.dumps([command.format(bad), command.format(good)])
    config = write_config(tmp_path, "later")
    assert main(["pretrain", str(config), f"data.train={train}", "data.allow_pipe=true"]) == 0
    (row,) = map(json.loads, (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines())
    assert row["shard"].startswith("pipe:…") and row["key"] == "0"
    assert main(["report", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr()
    assert_secrets_are_nowhere(tmp_path, printed.out + printed.err)


def test_a_detector_records_no_secret_and_its_export_asks_for_the_images(
    server, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    addresses = []
    for name, first in (("normal", 0), ("calibration", 100)):
        shard(tmp_path / "a.tar", first, [0] * 9)
        address = server.serve(f"/{name}.tar", body((tmp_path / "a.tar").read_bytes()))
        address = address.replace("://", f"://me:{OTHER}@")
        addresses.append(f"{address}?X-Amz-Signature={SECRET}")
    out = tmp_path / "detector"
    words = ["anomaly", "fit", str(out), "--channels", "1", "--alpha", "0.2", "--workers", "0"]
    assert main([*words, "--normal", addresses[0], "--calibration", addresses[1]]) == 0
    recorded = json.loads((out / "detector.json").read_text())["calibration_shards"]
    assert recorded == [f"{server.url}/calibration.tar?…"]
    said = capsys.readouterr()
    assert main(["anomaly", "export", str(out), str(tmp_path / "program")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "was not recorded with the detector: give the calibration images again by" in line
    assert_secrets_are_nowhere(tmp_path, said.out + said.err + line)
