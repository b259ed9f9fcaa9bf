import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mae.base.errors import UserError
from mae.base.files import new_file
from mae.evaluation import features_file
from mae.evaluation.features_file import FORMAT, FeatureWriter, read_features

RNG = np.random.default_rng(0)
MEAN = RNG.standard_normal((11, 6)).astype(np.float16)
TOKENS = RNG.standard_normal((11, 5, 3)).astype(np.float16)
LABELS = np.arange(11) - 1


def write(path, most, rows=11, piece=4):
    with new_file(path) as part, part.open("w+b") as file:
        shapes = {"mean": (6,), "tokens": (5, 3)}
        writer = FeatureWriter(file, most, shapes, {"encoder": "ä"})
        for start in range(0, rows, piece):
            span = slice(start, min(rows, start + piece))
            writer.append(
                {
                    "label": LABELS[span],
                    "sample": np.arange(11)[span] * 2,
                    "mean": MEAN[span],
                    "tokens": TOKENS[span],
                }
            )
        names = "\0".join(f"s.tar: key {i}" for i in range(rows)).encode()
        writer.finish({"name": names, "dropped": b"s.tar: key 9: bad\0s.tar: key x: worse"})


@pytest.mark.parametrize("most", [11, 12, 1000])
def test_safetensors_reads_files_written_row_by_row(tmp_path, most, monkeypatch):
    monkeypatch.setattr(features_file, "CHUNK", 13)  # columns that move do so in many pieces
    write(tmp_path / "f.safetensors", most)
    theirs = load_file(tmp_path / "f.safetensors")
    assert set(theirs) == {"label", "sample", "mean", "tokens", "name", "dropped"}
    assert theirs["mean"].dtype == np.float16
    assert np.array_equal(theirs["mean"], MEAN)
    assert np.array_equal(theirs["tokens"], TOKENS)
    assert np.array_equal(theirs["label"], LABELS)
    assert theirs["name"].tobytes().startswith(b"s.tar: key 0\0s.tar: key 1")
    ours = read_features(tmp_path / "f.safetensors")
    assert set(ours.vectors) == {"mean", "tokens"}
    assert all(np.array_equal(vectors, theirs[name]) for name, vectors in ours.vectors.items())
    assert isinstance(ours.vectors["tokens"], np.memmap)
    assert ours.labels.tolist() == LABELS.tolist()
    assert ours.samples.tolist() == list(range(0, 22, 2))
    assert ours.names()[10] == "s.tar: key 10" and len(ours.names()) == 11
    assert ours.dropped() == ["s.tar: key 9: bad", "s.tar: key x: worse"]
    assert ours.metadata["encoder"] == "ä"


def test_fewer_rows_make_a_smaller_file(tmp_path):
    write(tmp_path / "all.safetensors", 11)
    write(tmp_path / "some.safetensors", 11, rows=3)
    assert np.array_equal(read_features(tmp_path / "some.safetensors").vectors["mean"], MEAN[:3])
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("all", "some")]
    assert sizes[0] - sizes[1] >= 8 * (8 + 8 + 6 * 2 + 15 * 2)


def test_error_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError), new_file(tmp_path / "f") as part:
        part.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_write_error_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), new_file(tmp_path / "file" / "f"):
        raise AssertionError("not reached")


def test_other_and_incomplete_files_are_refused(tmp_path):
    path = tmp_path / "f.safetensors"
    with pytest.raises(UserError, match="not a feature file"):
        read_features(path)
    path.write_bytes(b"abc")
    with pytest.raises(UserError, match="not a feature file"):
        read_features(path)
    save_file({"mean": MEAN}, path)
    with pytest.raises(UserError, match="not a feature file of this version"):
        read_features(path)
    write(path, 11)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="not a feature file"):
        read_features(path)


def test_files_of_strangers_are_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match="is a FIFO, not a file"):
        read_features(tmp_path / "fifo")
    column = {"label": np.zeros(1, np.int64)}
    for classes in ("{", '"ab"', "[1]", "[" * 100_000):
        save_file(column, tmp_path / "f", {"format": FORMAT, "classes": classes})
        with pytest.raises(UserError, match="its class names are no list of texts"):
            read_features(tmp_path / "f")
