import sys

import pytest

from mae.base.progress import duration, progress_bar, progress_counter


def test_no_bar_without_a_terminal(capsys):
    with progress_bar("images") as show:
        show(1, 2)
    assert capsys.readouterr() == ("", "")


def test_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar("images") as show:
        show(1, 2)
        show(2, 2)
    assert "2.00/2.00" in capsys.readouterr().err


def test_counter_is_one_line_on_a_terminal(monkeypatch, capsys):
    show = progress_counter("indexed", "shards")
    show(1, 2)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show(1, 2)
    show(2, 2)
    assert capsys.readouterr().err == "\rindexed 1 of 2 shards\rindexed 2 of 2 shards\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3723, "1:02:03")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text
