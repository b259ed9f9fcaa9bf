import sys
import time

import pytest

from mae.base.progress import ProgressCounter, ProgressLine, duration


def test_counter_is_one_line_on_a_terminal(monkeypatch, capsys):
    show = ProgressCounter("indexed", "shards")
    show(1, 2)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show(1, 2)
    show(2, 2)
    assert capsys.readouterr().err == "\rindexed 1 of 2 shards\rindexed 2 of 2 shards\n"


def test_counter_has_the_remaining_time_and_a_line_now_and_then_off_a_terminal(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    show = ProgressCounter("indexed", "shards")
    for seconds, done in ((0, 40), (9, 41), (10, 50), (12, 52), (20, 100)):
        now[0] = seconds
        show(done, 100, ", so far")
    assert capsys.readouterr().err.splitlines() == [
        "indexed 50 of 100 shards, so far  ETA 0:50",
        "indexed 100 of 100 shards, so far",
    ]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show(50, 100)
    show(100, 100)
    assert capsys.readouterr().err == (
        "\rindexed 50 of 100 shards  ETA 1:40\rindexed 100 of 100 shards         \n"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3723, "1:02:03")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_lines_of_a_log_count_from_where_the_work_resumed(monkeypatch):
    said, now = [], [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    line = ProgressLine(said.append, "images")
    for seconds, done in ((0, 40), (1, 41), (10, 50), (12, 52), (20, 100)):
        now[0] = seconds
        line(done, 100)
    assert said == [
        "  41/100  1 images/s  ETA 0:59",
        "  52/100  1 images/s  ETA 0:48",
        "  100/100  3 images/s",
    ]


def test_short_work_has_one_line(monkeypatch):
    said, now = [], [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    line = ProgressLine(said.append, "images")
    for seconds, done in ((0, 0), (1, 20), (4, 100)):
        now[0] = seconds
        line(done, 100)
    assert said == ["  100/100  25 images/s"]
    quiet = ProgressLine(said.append, "images", quiet=True)
    for done, seconds in ((0, 4), (1, 5), (100, 6), (0, 4), (50, 20)):
        now[0] = seconds
        quiet(done, 100)
    assert said[1:] == ["  1/100  1 images/s  ETA 1:39", "  50/100  3 images/s  ETA 0:16"]
