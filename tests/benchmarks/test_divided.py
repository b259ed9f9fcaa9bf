"""`python -m benchmarks.divided`: speed-up of divided commands."""

from benchmarks.divided import Times, main, report


def test_a_command_is_measured_from_nothing(tmp_path, capsys):
    words = ["--commands", "index", "--processes", "1", "--images", "6", "--repeats", "2"]
    assert main([*words, "--folder", str(tmp_path)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("index     1 processes: ") and line.endswith("the same result")
    assert list(tmp_path.iterdir()) == []


def test_medians_and_other_results_are_reported(capsys):
    alone = [Times(wall, 1.0, 1.0, "a") for wall in (4.0, 9.0, 3.0)]
    report("verify", {1: alone, 2: [Times(2.0, 1.5, 0.8, "b")]})
    one, two = capsys.readouterr().out.splitlines()
    times = "4.00 s wall,    1.00 s CPU (1.00 s of one process)"
    assert one == f"verify    1 processes:    {times}, speed-up 1.00, OTHER result"
    times = "2.00 s wall,    1.50 s CPU (0.80 s of one process)"
    assert two == f"verify    2 processes:    {times}, speed-up 2.00, OTHER result"
