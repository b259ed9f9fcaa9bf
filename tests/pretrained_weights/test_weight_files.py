"""Files of weights: intact, damaged, malicious."""

import argparse
import datetime
import fractions
import os
import pickle
import tarfile
import types
from collections import OrderedDict
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mae.base.errors import UserError
from mae.pretrained_weights.weight_files import read_tensors, read_weights

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


DATA = {
    "path": Path("/data"),
    "windows path": PureWindowsPath("c:/data"),
    "number": np.float64(0.5),
    "truth": np.bool_(True),
    "array": np.arange(3),
    "dtype": np.dtype("float32"),
    "ordered": OrderedDict(a=1),
    "size": torch.Size([2, 3]),
    "namespace": types.SimpleNamespace(a=1),
    "time": datetime.datetime(2022, 1, 1, tzinfo=datetime.UTC),
    "delta": datetime.timedelta(hours=1),
    "set": {1, 2},
    "frozen set": frozenset([1]),
    "range": range(3),
    "slice": slice(1, 2),
    "device": torch.device("cpu"),
    "random state of numpy": np.random.default_rng(0).bit_generator.state,
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", DATA)
def test_data_beside_the_weights_is_ignored(tmp_path, name, zipped):
    """As training checkpoints have it, in the command line or elsewhere."""
    args = argparse.Namespace(value=DATA[name], norm_pix_loss=True, mask_ratio=0.75)
    content = {"model": TENSORS, "args": args, "other": [DATA[name]]}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    found = read_weights(tmp_path / "x.pth")
    assert found.tensors.keys() == TENSORS.keys()
    assert found.settings["norm_pix_loss"] is True and found.settings["mask_ratio"] == 0.75


def test_names_of_other_versions_are_ignored(tmp_path):
    """Files written by numpy 1 and by Python 3.13 name the same classes by other modules."""
    for old, new in ((b"numpy._core", b"numpy.core"), (b"cpathlib\n", b"cpathlib._local\n")):
        path = tmp_path / "x.pth"
        content = {"model": TENSORS, "args": [np.float64(0.5), PurePosixPath("/data")]}
        torch.save(content, path, _use_new_zipfile_serialization=False)
        written = path.read_bytes()
        assert old in written
        path.write_bytes(written.replace(old, new))
        assert read_tensors(path).keys() == TENSORS.keys()


def test_a_refused_class_is_named(tmp_path):
    torch.save({"model": TENSORS, "fraction": fractions.Fraction(1, 2)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"holds a fractions.Fraction besides weights; no code wa"):
        read_tensors(tmp_path / "x.pth")


def test_the_tar_format_of_torch_0_1_is_named(tmp_path):
    path = tmp_path / "x.pth"
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(UserError, match=r"x.pth: in the tar format of torch 0.1"):
        read_tensors(path)


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
