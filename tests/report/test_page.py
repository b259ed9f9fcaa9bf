"""The report of whole, unfinished and damaged runs: one file, well-formed, nothing unescaped."""

import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mae.base.errors import UserError
from mae.report.page import write_report
from tests.report.folders import metric_rows, write_panel, write_rows, write_run
from tests.runs import launch, write_config

VOID = {"meta", "img", "input", "wbr"}


class Reader(HTMLParser):
    """Text and tags of a page; every element must be closed in its order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID or "svg" in self.open, f"<{tag}/> stays open in HTML"
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += f"{data} "


def report(run: Path) -> Reader:
    return Reader(write_report(run, run / "report.html").read_text())


def test_all_parts_of_the_page_from_top_to_bottom(tmp_path):
    page = report(write_run(tmp_path / "photos"))
    heads = re.findall(r"<h2>(.*?)</h2>", (tmp_path / "photos" / "report.html").read_text())
    assert heads == [
        "Diagnosis",
        "Learning",
        "Optimisation",
        "Speed",
        "Features",
        "Reconstructions",
        "Events",
        "Bad images",
        "Data",
        "Settings",
        "Commands",
        "Versions and hardware",
    ]
    for words in (
        "photos",
        "Finished at step 2,000 of 2,000",
        "Loss",
        "R² on hidden patches",
        "interpolation",
        "Learning rate",
        "Gradient norm",
        "Images per second",
        "Time spent waiting for data",
        "RankMe",
        "k-NN",
        "6 of 9 panels",
        "SIGTERM",
        "25 replaced by others; the first 20",
        "key-19",
        "2 differ from the defaults",
        "The last of 2 starts. Different between starts: torch.",
        "2.10",
    ):
        assert words in page.text, words
    assert "key-20" not in page.text


def test_nothing_is_fetched_and_nothing_runs(tmp_path):
    run = write_run(tmp_path / "run")
    page = report(run)
    raw = (run / "report.html").read_text()
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.found}
    sources = [v for _, attrs in page.found for k, v in attrs.items() if k in ("src", "href")]
    assert sources and all(str(source).startswith("data:image/") for source in sources)
    assert "url(" not in raw and "@import" not in raw and "http://" not in raw
    policy = next(a["content"] for t, a in page.found if t == "meta" and "http-equiv" in a)
    assert policy is not None and "default-src 'none'" in policy


HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


@pytest.mark.parametrize("where", ["quarantine", "events", "starts", "config", "name", "health"])
def test_what_the_files_say_is_text_whatever_it_resembles(tmp_path, where):
    run = write_run(tmp_path / ("run<script>x" if where == "name" else "run"))
    hostile = {
        "step": 40,
        "epoch": 4,
        "event": HOSTILE,
        "time": HOSTILE,
        HOSTILE: {HOSTILE: [HOSTILE]},
    }
    if where == "quarantine":
        hostile |= {"shard": HOSTILE, "key": HOSTILE, "error": HOSTILE, "step": HOSTILE}
    if where == "config":
        (run / "config.yaml").write_text(json.dumps({"train": {HOSTILE: HOSTILE}, HOSTILE: 1}))
    elif where != "name":
        write_rows(run / f"{where}.jsonl", [hostile])
    page = report(run)
    assert not {"script"} & {tag for tag, _ in page.found}
    assert not any("onerror" in attrs for _, attrs in page.found)
    if where not in ("name", "health"):
        assert "<script>alert(1)</script>" in page.text


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "health.jsonl", "events.jsonl"])
def test_any_file_may_be_missing(tmp_path, name):
    run = write_run(tmp_path / "run")
    (run / name).unlink()
    assert "Reconstructions" in report(run).text


def test_a_run_of_nothing_but_settings(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("output: run\n")
    page = report(run)
    assert "Not started" in page.text and "Nothing to diagnose yet." in page.text
    assert "No panels yet." in page.text and "None recorded." in page.text


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_first_rows(tmp_path, count):
    page = report(write_run(tmp_path / "run", count))
    assert f"Running at step {20 * count} of 2,000" in page.text
    assert "Too early to evaluate the loss" in page.text


def test_numbers_that_are_none(tmp_path):
    run = write_run(tmp_path / "run")
    rows = metric_rows(50)
    for i in (0, 10, 20, 49):
        rows[i] |= dict.fromkeys(("loss", "r2", "lr", "grad_norm"), float("nan"))
    rows[30] |= {"loss": float("inf"), "r2": None, "epoch": "x", "images_per_second": 10**400}
    write_rows(run / "metrics.jsonl", rows, cut='{"step": 99')
    page = report(run)
    assert "The loss is not a number" in page.text
    assert "nan" not in " ".join(a.get("d") or "" for _, a in page.found)
    assert "step 220: not a number" in page.text


def test_damaged_panels_are_named_and_the_rest_is_shown(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "panels" / "step-000000100.png").write_bytes(b"no picture")
    page = report(run)
    assert "step 100: damaged" in page.text
    assert len([tag for tag, _ in page.found if tag == "img"]) == 5


def test_a_long_run_with_large_panels_stays_small_and_quick(tmp_path):
    run = write_run(tmp_path / "run", 5000)
    skips = [{"time": "t", "step": 20 * i, "event": "skip"} for i in range(5000)]
    write_rows(run / "events.jsonl", skips)
    for step in range(6):
        write_panel(run / "panels" / f"step-{step * 200 + 100:09d}.png", side=1000, noise=True)
    began = time.perf_counter()
    page = report(run)
    assert (run / "report.html").stat().st_size < 10e6
    assert time.perf_counter() - began < 20
    assert "the last 40 of 5,000" in page.text


def test_an_out_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path):
    run = write_run(tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_report(run, tmp_path / "file" / "report.html")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(run, run / "panels")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run"]
    with pytest.raises(UserError, match="no run here"):
        write_report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_of_a_run_that_was_really_made(make_shards, tmp_path):
    config = write_config(tmp_path, make_shards(tmp_path / "shards", 32))
    launched = launch(config, "log.panel_every=8")
    assert launched.returncode == 0, launched.stderr
    page = report(tmp_path / "run")
    assert "Finished at step 16 of 16" in page.text
    loss = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["loss"]
    assert re.search(rf"loss {loss:,.4g} ", " ".join(page.text.split()))
    assert len([tag for tag, _ in page.found if tag == "img"]) == 2
    assert "train.batch_size" in page.text.replace(". ", ".").replace("_ ", "_")
