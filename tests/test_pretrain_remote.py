"""Runs whose shards lie on servers."""

from pathlib import Path

import boto3
import numpy as np
import pytest
import torch

from mae.pretrain import main
from mae.training.tracking.tracker import Tracker
from tests.runs import (
    final_weights,
    launch,
    launch_and_kill,
    launch_forked,
    metrics_of,
    same_weights,
    write_config,
)
from tests.servers import body, s3_server, status, web_server

IMAGES = 50
SHARDS = 8
SETTINGS = ("data.order=window", "data.window=2", "train.epochs=2", "optim.warmup_epochs=0.5")


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path, fast_retries):
    """Short pauses, no proxy, caches that only this test has, and one thread.

    As launched processes have it: with more of them sums add up in another order.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield
    torch.set_num_threads(before)


@pytest.fixture
def local(tmp_path, make_shards):
    """The shards as files, and the run over them."""
    pattern = make_shards(tmp_path / "shards", IMAGES, shard_size=7, size=(20, 24))
    (tmp_path / "local").mkdir()
    config = write_config(tmp_path / "local", pattern)
    assert main([str(config), *SETTINGS]) == 0
    return sorted((tmp_path / "shards").glob("*.tar")), tmp_path / "local" / "run"


def remote_config(folder: Path, address: str) -> Path:
    folder.mkdir()
    return write_config(folder, f"{address}/shard-{{000000..{SHARDS - 1:06d}}}.tar")


def same_end(one, other):
    return same_weights(final_weights(one), final_weights(other))


def test_two_processes_with_workers_download_each_shard_once(local, tmp_path):
    shards, run = local
    with web_server() as server:
        for shard in shards:
            server.serve(f"/{shard.name}", body(shard.read_bytes()))
        config = remote_config(tmp_path / "remote", server.url)
        result = launch_forked(config, *SETTINGS, "data.workers=1")
        assert result.returncode == 0, result.stderr
        assert [server.gets(f"/{shard.name}") for shard in shards] == [1] * SHARDS
        losses = [
            [row["loss"] for row in metrics_of(folder)]
            for folder in (run, tmp_path / "remote" / "run")
        ]
        np.testing.assert_allclose(*losses, rtol=1e-5)

        # A second run finds everything in the cache.
        again = remote_config(tmp_path / "again", server.url)
        assert main([str(again), *SETTINGS]) == 0
        assert [server.gets(f"/{shard.name}") for shard in shards] == [1] * SHARDS
        assert same_end(run, tmp_path / "again" / "run")


def test_a_cache_smaller_than_the_data_and_a_server_that_stumbles(local, tmp_path):
    shards, run = local
    largest = max(shard.stat().st_size for shard in shards)
    with web_server() as server:
        for shard in shards:
            whole = body(shard.read_bytes())
            server.serve(f"/{shard.name}", status(503), whole, status(500), whole)
        config = remote_config(tmp_path / "remote", server.url)
        cache_gb = f"data.cache_gb={5 * largest / 1e9}"
        assert main([str(config), *SETTINGS, cache_gb]) == 0
        assert sum(server.gets(f"/{shard.name}") for shard in shards) > SHARDS  # some twice
    assert same_end(run, tmp_path / "remote" / "run")
    held = (tmp_path / "home" / ".cache" / "mae" / "shards").glob("*.tar")
    assert sum(path.stat().st_size for path in held) <= 5 * largest


def test_a_cache_too_small_for_the_order_is_refused_before_training(local, tmp_path, capsys):
    shards, _ = local
    with web_server() as server:
        for shard in shards:
            server.serve(f"/{shard.name}", body(shard.read_bytes()))
        config = remote_config(tmp_path / "remote", server.url)
        assert main([str(config), f"data.cache_gb={2 * shards[0].stat().st_size / 1e9}"]) == 2
    message = capsys.readouterr().err
    assert "data.cache_gb" in message and "data.order=window" in message
    assert not (tmp_path / "remote" / "run").exists()


def test_a_missing_shard_is_named_before_training(local, tmp_path, capsys):
    shards, _ = local
    with web_server() as server:
        for shard in shards[:-1]:
            server.serve(f"/{shard.name}", body(shard.read_bytes()))
        config = remote_config(tmp_path / "remote", server.url)
        assert main([str(config), *SETTINGS]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"mae: {server.url}/{shards[-1].name}: ")
    assert not (tmp_path / "remote" / "run").exists()


def test_a_server_that_goes_away_ends_the_run_with_a_checkpoint(
    local, tmp_path, capsys, monkeypatch
):
    shards, _ = local
    report = Tracker.report

    with web_server() as server:
        for shard in shards:
            server.serve(f"/{shard.name}", body(shard.read_bytes()))

        def go_away(self, row, line):
            report(self, row, line)
            if row["step"] == 4:
                for shard in shards:
                    server.serve(f"/{shard.name}", status(500))

        config = remote_config(tmp_path / "remote", server.url)
        largest = max(shard.stat().st_size for shard in shards)
        settings = (*SETTINGS, "data.window=1", f"data.cache_gb={2.5 * largest / 1e9}")
        with monkeypatch.context() as patch:
            patch.setattr(Tracker, "report", go_away)
            assert main([str(config), *settings, "train.checkpoint_every=100"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert server.url in line and "500" in line
        (saved,) = (tmp_path / "remote" / "run" / "checkpoints").iterdir()
        assert line.endswith(f"the last checkpoint is of step {int(saved.name[5:])}")

        for shard in shards:
            server.serve(f"/{shard.name}", body(shard.read_bytes()))
        assert main([str(config), *settings, "train.checkpoint_every=100"]) == 0
    (tmp_path / "whole").mkdir()
    whole = write_config(tmp_path / "whole", f"{shards[0].parent}/*.tar")
    assert main([str(whole), *SETTINGS, "data.window=1", "train.checkpoint_every=100"]) == 0
    assert same_end(tmp_path / "whole" / "run", tmp_path / "remote" / "run")


def test_killed_in_the_middle_of_a_download_and_rerun(local, tmp_path):
    shards, run = local
    with web_server() as server:
        for shard in shards:
            server.serve(f"/{shard.name}", body(shard.read_bytes()))
        config = remote_config(tmp_path / "remote", server.url)
        launch_and_kill(config, *SETTINGS, "data.workers=1", after_step=6)
        assert launch(config, *SETTINGS, "data.workers=1").returncode == 0
    left = list((tmp_path / "home" / ".cache" / "mae" / "shards").glob("*.part"))
    assert same_end(run, tmp_path / "remote" / "run") and not left


def test_shards_and_their_index_on_s3(local, tmp_path, monkeypatch):
    shards, run = local
    with s3_server(monkeypatch) as address:
        client = boto3.client("s3", endpoint_url=address)
        client.create_bucket(Bucket="images")
        files = [*shards, *(shards[0].parent / ".mae-index").iterdir()]
        for file in files:
            key = str(file.relative_to(shards[0].parent))
            client.upload_file(str(file), "images", f"set/{key}")
        config = remote_config(tmp_path / "remote", "s3://images/set")
        assert main([str(config), *SETTINGS]) == 0
    assert same_end(run, tmp_path / "remote" / "run")
