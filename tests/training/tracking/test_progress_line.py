import mae.training.tracking.progress_line
from mae.training.tracking.progress_line import IndexProgress


def test_a_long_first_reading_is_reported_now_and_then(monkeypatch, capsys):
    clock = iter([0.0, 5.0, 11.0, 11.0, 12.0, 22.0, 22.0])
    monkeypatch.setattr(mae.training.tracking.progress_line.time, "monotonic", lambda: next(clock))
    progress = IndexProgress()
    for done in (1, 2, 3, 1400):
        progress(done, 2000)
    assert capsys.readouterr().out.splitlines() == [
        "index   2 of 2,000 shards",
        "index   1,400 of 2,000 shards",
    ]
