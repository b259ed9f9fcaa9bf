"""`mae embed`: tables of embeddings of shards and folders."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mae.base.errors import UserError
from mae.cli import main
from mae.evaluation.nearest import nearest
from mae.similarity.figures import figure_lines
from mae.similarity.table import read_origin, read_rows
from tests.evaluation.frozen import tiny_run


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_shards, make_image):
    """`shards`: 30 labelled images with class names, the last one a copy; `run`: an encoder."""
    folder = tmp_path_factory.mktemp("embed")
    make_shards(folder / "shards", 29, shard_size=16, size=20)
    (folder / "shards" / "classes.txt").write_text("left\nmiddle\nright\n")
    tiny_run(folder / "run")
    for name in ("a", "b"):
        (folder / "files" / name).mkdir(parents=True)
    for number in range(7):
        place = folder / "files" / "ab"[number % 2] / f"{number}.png"
        Image.fromarray(make_image(number % 6, channels=1)).save(place)
    return folder


def embed(data, out, *more, source="run"):
    features = "pixels" if source == "pixels" else str(data / source)
    words = ["embed", f"{data}/shards/*.tar", "--with", features, "--out", str(out)]
    return main([*words, "--workers", "0", *more])


@pytest.fixture(scope="module")
def table(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("tables") / "x.parquet"
    assert embed(data, out, "-k", "4") == 0
    return out


def test_parts_of_the_same_weights_read_otherwise_are_not_reused(tmp_path, data, monkeypatch):
    plans = []

    def planned(out, plan, portion, log):
        plans.append(plan)
        raise UserError("planned")

    monkeypatch.setattr("mae.similarity.embedding.divided_work", planned)
    for name in ("one", "two"):
        shutil.copytree(data / "run", tmp_path / name)
    config = tmp_path / "two" / "config.yaml"
    assert config.read_text().count("num_heads: 2\n  ") >= 1
    config.write_text(config.read_text().replace("num_heads: 2\n  ", "num_heads: 4\n  ", 1))
    for name in ("one", "two"):
        assert embed(data, tmp_path / "x.parquet", source=tmp_path / name) == 2
    assert plans[0] != plans[1]


def test_rows_hold_features_neighbours_and_names(data, table):
    (rows,) = read_rows(table)
    assert rows["key"][:2] == ["sample-00000", "sample-00001"]
    assert rows["class"][:3] == ["left", "middle", "right"]
    assert rows["shard"][0].endswith("shard-000000.tar")
    assert rows["vector"].shape == (29, 32)
    found = nearest(rows["vector"], rows["vector"], 4, own=np.arange(29))
    np.testing.assert_array_equal(rows["neighbours"]["ids"], found.rows)
    distances = rows["neighbours"]["distances"]
    np.testing.assert_allclose(distances, 1 - found.cosine, atol=1e-6)
    np.testing.assert_allclose(rows["outlier"], distances.mean(1), atol=1e-6)
    assert np.isfinite(rows["x"]).all() and len(set(rows["x"].tolist())) == 29
    assert (rows["duplicate_of"] == -1).all()
    origin = read_origin(table)
    assert origin["projection"] == "tsne" and origin["classes"] == ["left", "middle", "right"]
    assert origin["rows"] == 29 and origin["dimensions"] == 32 and len(origin["model_sha256"]) == 64
    assert set(origin["figures"]["map"]) == {"tsne", "pca"} and "reduction" in origin["figures"]


def test_figures_name_the_size_that_pixels_are_reduced_to(table):
    origin = read_origin(table)
    origin["figures"]["reduction"] |= {"is_reduced": True}
    titles = [line[:36].strip() for line in figure_lines(origin)]
    assert "pixels reduced to 16 × 16 (768)" in titles


def test_the_same_images_give_the_same_bytes(data, table, tmp_path):
    again = tmp_path / "again.parquet"
    assert embed(data, again, "-k", "4", "--batch-size", "3", "--workers", "2") == 0
    assert again.read_bytes() == table.read_bytes()


def test_figures_are_printed_beside_pca(data, tmp_path, capsys):
    assert embed(data, tmp_path / "x.parquet", "--projection", "pca") == 0
    printed = capsys.readouterr().out
    assert "trustworthiness" in printed and "PCA of pixels (28)" in printed
    assert "pixels 16 × 16 (768)" in printed  # of views of 16 × 16, which are not reduced
    assert "t-SNE" not in printed


def test_a_folder_of_gray_files_by_their_pixels(data, tmp_path, capsys):
    out = tmp_path / "x.parquet"
    words = ["embed", str(data / "files"), "--with", "pixels", "--out", str(out)]
    assert main([*words, "--workers", "0"]) == 0
    (rows,) = read_rows(out)
    assert rows["key"] == [
        "a/0.png",
        "a/2.png",
        "a/4.png",
        "a/6.png",
        "b/1.png",
        "b/3.png",
        "b/5.png",
    ]
    assert rows["class"] == list("aaaabbb") and rows["label"].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert rows["duplicate_of"].tolist() == [-1, -1, -1, 0, -1, -1, -1]
    assert rows["vector"].shape[1] == 16 * 16  # gray
    assert rows["neighbours"]["ids"].shape == (7, 6)
    features = json.loads(pq.read_schema(out).metadata[b"huggingface"])["info"]["features"]
    assert features["vector"]["length"] == 256


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "{tmp}/x.csv"], "must end in .parquet"),
        (["--with", "{data}/nothing"], "nothing"),
        (["--feature", "cls2"], "--feature cls2: {data}/run has"),
        (["--channels", "1"], "--channels, --bits: are for pixels"),
        (["--projection", "umap"], "needs umap-learn"),
    ],
)
def test_wrong_use_is_refused_in_one_line(data, tmp_path, capsys, options, words):
    filled = [one.format(tmp=tmp_path, data=data) for one in options]
    assert embed(data, tmp_path / "x.parquet", *filled) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words.format(data=data) in line
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_and_too_few_images_are_refused(data, table, tmp_path, capsys):
    before = table.read_bytes()
    assert embed(data, table) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert table.read_bytes() == before
    words = ["embed", str(data / "files" / "b"), "--with", "pixels"]
    assert main([*words, "--out", str(tmp_path / "x.parquet"), "--workers", "0"]) == 2
    assert "3 usable images: a map needs at least 5" in capsys.readouterr().err
    assert not (tmp_path / "x.parquet").exists()


def test_images_that_do_not_decode_are_named_and_counted(data, tmp_path, capsys):
    for path in (data / "files").rglob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nothing")
    out = tmp_path / "out" / "x.parquet"
    words = ["embed", str(tmp_path), "--with", "pixels", "--out", str(out), "--workers", "0"]
    assert main(words) == 2
    assert "bad.png" in capsys.readouterr().err and not out.exists()
    assert main([*words, "--max-bad", "1"]) == 0
    assert "skipped" in capsys.readouterr().err
    (rows,) = read_rows(out)
    assert len(rows["key"]) == 7 and "bad.png" not in rows["key"]
