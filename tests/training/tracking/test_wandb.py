import importlib
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from mae.base.redaction import redacted, without_secrets
from mae.config.sections import Config
from mae.training.checkpoint.run import Run
from mae.training.tracking import wandb
from mae.training.tracking.tracker import Tracker
from mae.training.tracking.wandb import start_wandb

KEY = "0123456789abcdef" * 2 + "01234567"
SECRETS = (KEY, "ThePassword", "TheSignature", "TheHeader", "TheMixture")
ADDRESSES = (
    "https://me:ThePassword@server.example/train-{000..147}.tar?X-Amz-Signature=TheSignature",
    "pipe:curl -H 'x-token: TheHeader' https://server.example/more.tar",
)

# One process for all cases: what wandb leaves running would disturb other tests.
SCRIPT = """
import json, os, sys, time
from pathlib import Path
import wandb
from mae.config.sections import Config, DataConfig, LogConfig, MixturePart
from mae.training.tracking import wandb as wandb_tracker
from mae.training.checkpoint.run import Run
from mae.training.tracking.tracker import Tracker

folder, addresses, server, key = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], sys.argv[4]
wandb_tracker.INIT_SECONDS = wandb_tracker.FINISH_SECONDS = 2
mixture = (MixturePart(shards=("s3://bucket/x.tar?X-Amz-Signature=TheMixture",)),)
data = DataConfig(train=addresses[:1], val=addresses[1:], mixture=mixture)
config = Config(data=data, log=LogConfig(trackers=("wandb",)))
sys.argv = ["mae", "pretrain", f"data.train={addresses[0]}", f"data.val=[{addresses[1]}]"]

def go(name, start, steps, config=config):
    run = Run(Path(folder) / name)
    run.folder.mkdir(exist_ok=True)
    began = time.monotonic()
    tracker = Tracker(run, config, is_main=True, step=start)
    seconds = time.monotonic() - began
    (backend,) = tracker.backends.values()
    result = {"seconds": seconds, "id": backend and backend.run.id}
    for step in steps:
        tracker.report({"step": step, "loss": 0.5}, "")
    tracker.log_health({"step": steps[-1], "rankme": 3.0, "knn": None})
    began = time.monotonic()
    tracker.close()
    result["closing"] = time.monotonic() - began
    Path(folder, f"{name}-{start}.json").write_text(json.dumps(result))

go("offline", 0, [1, 2, 3, 4])
go("offline", 2, [3, 4, 5, 4])
os.environ["WANDB_API_KEY"] = key
for name, address in (("unreachable", "http://127.0.0.1:9"), ("refused", server)):
    wandb.teardown()  # reads the environment anew
    os.environ["WANDB_BASE_URL"] = address
    print(f"{name}:", file=sys.stderr, flush=True)
    go(name, 0, [1, 2])
wandb.teardown()
print("private:", file=sys.stderr, flush=True)
go("private", 0, [1, 2], Config(data=data))
assert sys.argv[2].endswith("=TheSignature")  # put back
"""


class Refusing(BaseHTTPRequestHandler):
    """A server that knows no key."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b'{"errors": [{"message": "user is not logged in"}]}'
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="module")
def wandb_runs(tmp_path_factory):
    """Folder of all runs, and stderr of the process that wrote them."""
    folder = tmp_path_factory.mktemp("wandb")
    (folder / "home").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    clean = {name: text for name, text in os.environ.items() if not name.startswith("WANDB")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), json.dumps(ADDRESSES), address, KEY],
        env=clean | {"HOME": str(folder / "home"), "NETRC": str(folder / "home" / "netrc")},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
    )
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


def records(run: Path) -> Iterator:
    """Yield the records of *.wandb files, oldest first: LevelDB's log format, protobuf inside."""
    parse = importlib.import_module("wandb.proto.wandb_internal_pb2").Record.FromString
    for path in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        data, at, whole = path.read_bytes(), 7, b""
        while at < len(data):
            if (rest := 32768 - at % 32768) < 7:
                at += rest
                continue
            size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
            whole += data[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):  # the whole of a record, or its last part
                yield parse(whole)
                whole = b""


def rows(run: Path) -> list[dict]:
    found = []
    for record in records(run):
        if record.HasField("history"):
            items = record.history.item
            found.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return found


def test_two_starts_are_one_run_and_no_row_is_lost(wandb_runs):
    """Also not after a kill or a rollback, where steps come again."""
    folder, _ = wandb_runs
    ids = {json.loads((folder / f"offline-{start}.json").read_text())["id"] for start in (0, 2)}
    assert ids == {(folder / "offline" / "wandb-id").read_text()}
    run = folder / "offline"
    assert [row["step"] for row in rows(run) if "loss" in row] == [1, 2, 3, 4, 3, 4, 5, 4]
    assert [row["health/rankme"] for row in rows(run) if "health/rankme" in row] == [3.0, 3.0]
    axes = [record.metric for record in records(run) if record.HasField("metric")]
    assert {(axis.glob_name, axis.step_metric) for axis in axes} == {("*", "step")}
    runs = [record.run for record in records(run) if record.HasField("run")]
    assert {one.run_id for one in runs} == ids


@pytest.mark.parametrize(
    ("name", "reason"), [("unreachable", "connection refused"), ("refused", "401")]
)
def test_a_server_that_fails_costs_one_line_and_little_time(wandb_runs, name, reason):
    folder, printed = wandb_runs
    said = printed.split(f"{name}:\n")[1].split("refused:\n")[0].split("private:\n")[0].splitlines()
    lines = [line for line in said if line.startswith("wandb: ")]
    assert len(lines) == 1, said
    assert lines[0].startswith("wandb: offline from here: ") and reason in lines[0]
    times = json.loads((folder / f"{name}-0.json").read_text())
    assert times["seconds"] < 2 + 25 and times["closing"] < 2 + 10  # a busy machine's patience
    assert [row["step"] for row in rows(folder / name) if "loss" in row] == [1, 2]


def test_the_default_stays_on_the_machine_with_a_login_too(wandb_runs):
    """A login is tried, and refused, by `wandb` alone."""
    folder, printed = wandb_runs
    assert "wandb: " not in printed.split("private:\n")[1]
    assert [row["step"] for row in rows(folder / "private") if "loss" in row] == [1, 2]


def test_uploads_are_said_with_their_address(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    anything = SimpleNamespace(setup=lambda *_: None, Settings=dict, login=lambda **_: True)
    monkeypatch.setitem(sys.modules, "wandb", anything)
    began = SimpleNamespace(
        url="https://wandb.example/me/mae/runs/1", define_metric=lambda *_, **__: None
    )
    monkeypatch.setattr(wandb, "_init", lambda run, config, mode: wandb.WandbTracker(began))
    start_wandb(*opened(tmp_path / "run"))
    line = "wandb: metrics and pictures are uploaded to https://wandb.example/me/mae/runs/1\n"
    assert capsys.readouterr().err == line
    start_wandb(*opened(tmp_path / "other"), offline=True)
    assert not capsys.readouterr().err


def test_no_secret_is_on_disk(wandb_runs):
    """Searched for in all files; what must be there is found in the same way."""
    folder, printed = wandb_runs
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = {path: path.read_bytes() for path in files}
    for secret in SECRETS:
        assert not [path for path, data in found.items() if secret.encode() in data], secret
        assert secret not in printed
    address = b"https://server.example/train-{000..147}.tar"
    offline = [data for path, data in found.items() if path.match("offline-run-*/*.wandb")]
    assert len(offline) >= 4 and all(data.count(address) >= 2 for data in offline)
    environments = [r.environment for r in records(folder / "offline") if r.HasField("environment")]
    assert f"data.train={address.decode()}" in environments[0].args
    assert any(word.startswith("data.val=[pipe:curl…") for word in environments[0].args)


def opened(folder: Path) -> tuple[Run, Config]:
    run, config = Run(folder), Config(output=str(folder))
    run.open(config)
    return run, config


def test_disabled_is_silent(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run, config = opened(tmp_path / "run")
    assert start_wandb(run, config) is None
    assert capsys.readouterr() == ("", "")
    assert not (run.folder / "wandb-id").exists()


@pytest.mark.parametrize("left", [None, b"", b"\n", b"\0" * 8])
def test_an_id_that_a_crash_has_emptied_is_made_anew_and_then_stays(tmp_path, left):
    run, _ = opened(tmp_path / "run")
    file = run.folder / "wandb-id"
    if left is not None:
        file.write_bytes(left)
    made = wandb._run_id(run)
    assert re.fullmatch("[0-9a-f]{8}", made)
    assert wandb._run_id(run) == made == file.read_text()
    file.write_text("my-own-name\n")
    assert wandb._run_id(run) == "my-own-name"


def test_an_id_is_whole_or_absent(tmp_path, monkeypatch):
    run, _ = opened(tmp_path / "run")

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        wandb._run_id(run)
    assert not (run.folder / "wandb-id").exists()


def test_without_the_package_the_run_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", None)
    run, config = opened(tmp_path / "run")
    tracker = Tracker(run, config, is_main=True)
    tracker.report({"step": 1}, "the line")
    tracker.close()
    printed = capsys.readouterr()
    assert printed.out == "the line\n"
    (line,) = printed.err.splitlines()
    assert line.startswith("wandb: not tracking: import of wandb halted")


def test_a_start_that_fails_altogether_is_one_line_without_secrets(tmp_path, monkeypatch, capsys):
    import wandb

    def refuse(**settings):
        raise wandb.errors.CommError(f"no\nroute to {ADDRESSES[0]}")

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(wandb, "init", refuse)
    run, config = opened(tmp_path / "run")
    try:
        assert start_wandb(run, config) is None
    finally:
        wandb.teardown()  # ends its service process, which `setup` started
    (line,) = capsys.readouterr().err.splitlines()
    expected = "no route to https://server.example/train-{000..147}.tar"
    assert line == f"wandb: not tracking: {expected}"


def test_without_secrets_keeps_everything_else():
    config = Config().model_dump(mode="json")
    assert without_secrets(config) == config
    nested = {"a": [{"b": ADDRESSES[0]}, 1, None, True], "c": ADDRESSES[1]}
    clean = "https://server.example/train-{000..147}.tar"
    assert without_secrets(nested) == {
        "a": [{"b": clean}, 1, None, True],
        "c": redacted(ADDRESSES[1]),
    }
    assert "TheHeader" not in without_secrets("data.train=[a.tar, pipe:x TheHeader]")


def test_a_server_is_given_a_minute(monkeypatch):
    assert wandb.INIT_SECONDS <= 60
