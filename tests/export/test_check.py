import torch

from mae.export.check import difference
from mae.export.folder import fresh_process
from tests.export.subjects import exported, subject_of


def test_difference_is_relative_to_the_size_of_what_is_expected():
    expected = torch.tensor([3.0, -4.0, 0.0])
    assert difference(expected, expected) == 0
    found = expected + torch.tensor([0.0, 0.1, 0.0])
    assert abs(difference(found, expected) - 0.1 / (25 / 3) ** 0.5) < 1e-6
    assert abs(difference(10 * found, 10 * expected) - difference(found, expected)) < 1e-6
    assert difference(torch.tensor([0.5]), torch.tensor([0.0])) == 0.5


def test_nan_and_other_shapes_are_infinitely_far():
    expected = torch.ones(3)
    assert difference(torch.tensor([1.0, float("nan"), 1.0]), expected) == float("inf")
    assert difference(torch.ones(3, 1), expected) == float("inf")


def test_it_is_another_process_that_imports_no_model_of_ours(tmp_path, monkeypatch):
    seen = []

    def fresh(arguments):
        seen.append(fresh_process(arguments))
        return seen[-1]

    monkeypatch.setattr("mae.export.folder.fresh_process", fresh)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "timm").mkdir()  # no library, though it lies where Python looks first
    (tmp_path / "timm" / "__init__.py").write_text("raise ImportError('not this one')")
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    assert exported("timm", subject_of(), tmp_path / "export").off == 0
    assert "timm.models" in seen[0].stderr
    assert "mae.export.check" in seen[0].stderr or "mae.export" in seen[0].stderr
    assert "mae.models" not in seen[0].stderr
