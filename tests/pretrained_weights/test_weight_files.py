"""Files of weights: intact, damaged, malicious."""

import argparse
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from mae.base.errors import UserError
from mae.pretrained_weights.weight_files import read_tensors

TENSORS = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}


class Code:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        {"model": TENSORS, "epoch": 3, "args": argparse.Namespace(model="mae_vit", blr=1e-3)},
        {"state_dict": TENSORS, "optimizer": {"state": {}}},
        {"model": {"state_dict": TENSORS}},
        {**TENSORS, "version": 3},
    ],
)
@pytest.mark.parametrize("ending", [".pth", ".pt", ".bin"])
def test_state_dict_in_a_training_checkpoint_is_read(tmp_path, content, ending):
    torch.save(content, tmp_path / f"x{ending}")
    found = read_tensors(tmp_path / f"x{ending}")
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[key], TENSORS[key]) for key in TENSORS)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_refused_and_not_run(tmp_path, zipped):
    path, made = tmp_path / "x.pth", tmp_path / "made"
    content = {"model": TENSORS, "hook": Code(made)}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(UserError, match="no code was run") as error:
        read_tensors(path)
    assert len(str(error.value).splitlines()) == 1
    assert not made.exists()


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", [b"", b"<html>no such page</html>", 0.5])
def test_damaged_file_is_refused_in_one_line(tmp_path, ending, damage):
    path = tmp_path / f"x{ending}"
    if ending == ".pth":
        torch.save(TENSORS, path)
    else:
        save_file(TENSORS, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if isinstance(damage, float) else damage)
    with pytest.raises(UserError, match=rf"init.from: .*x{ending}: (damaged|not saved)") as error:
        read_tensors(path)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_truncated_file_is_refused(tmp_path, share):
    path = tmp_path / "x.pth"
    torch.save({"model": {str(i): torch.randn(300, 30) for i in range(20)}}, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"x.pth: damaged: "):
        read_tensors(path)


def test_file_without_weights_is_refused_with_its_keys(tmp_path):
    torch.save({"student": TENSORS, "teacher": TENSORS}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"holds no weights \(but student, teacher\)"):
        read_tensors(tmp_path / "x.pth")
    save_file({}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="holds no weights"):
        read_tensors(tmp_path / "x.safetensors")


def test_other_extensions_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"files of weights end with .safetensors, .pth"):
        read_tensors(tmp_path / "x.npz")
