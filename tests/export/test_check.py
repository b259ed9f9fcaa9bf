import torch

from mae.export.check import relative_error
from mae.export.folder import run_check
from tests.export.models import export_request, exported


def test_relative_error_is_in_units_of_the_expected_rms():
    expected = torch.tensor([3.0, -4.0, 0.0])
    assert relative_error(expected, expected) == 0
    found = expected + torch.tensor([0.0, 0.1, 0.0])
    assert abs(relative_error(found, expected) - 0.1 / (25 / 3) ** 0.5) < 1e-6
    assert abs(relative_error(10 * found, 10 * expected) - relative_error(found, expected)) < 1e-6
    assert relative_error(torch.tensor([0.5]), torch.tensor([0.0])) == 0.5


def test_nan_and_other_shapes_have_infinite_error():
    expected = torch.ones(3)
    assert relative_error(torch.tensor([1.0, float("nan"), 1.0]), expected) == float("inf")
    assert relative_error(torch.ones(3, 1), expected) == float("inf")


def test_check_runs_in_a_fresh_process_without_our_models(tmp_path, monkeypatch):
    processes = []

    def record(arguments):
        processes.append(run_check(arguments))
        return processes[-1]

    monkeypatch.setattr("mae.export.folder.run_check", record)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "timm").mkdir()  # would shadow the library without -P
    (tmp_path / "timm" / "__init__.py").write_text("raise ImportError('not this one')")
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    assert exported("timm", export_request(), tmp_path / "export").max_error == 0
    assert "timm.models" in processes[0].stderr
    assert "mae.export.check" in processes[0].stderr or "mae.export" in processes[0].stderr
    assert "mae.networks" not in processes[0].stderr
