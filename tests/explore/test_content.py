import json

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_distances
from sklearn.neighbors import NearestNeighbors

from mae.base.errors import UserError
from mae.explore import thumbnails
from mae.explore.content import Options, read_content
from mae.explore.page import write_page
from mae.explore.table import read_table
from tests.explore.tables import columns, write


def content_of(tmp_path, columns_, options=Options()):  # noqa: B008
    return read_content(read_table(write(tmp_path / "a.parquet", columns_)), options)


def names(content):
    return [one["name"] for one in content.about["columns"]]


def test_all_of_embed(tmp_path):
    given = columns(90)
    content = content_of(tmp_path, given)
    assert names(content) == ["class", "cluster", "shard", "outlier"]
    assert content.about["columns"][1]["names"][0].split()[0] == "1:"
    assert content.about["outlier"] == 3 and content.about["trust"]["k"] == 10
    assert content.arrays["neighbours"][:, :3].tolist() == [
        one["ids"] for one in given["neighbours"]
    ]
    cells = content.arrays["cells"]
    assert sorted(cells.tolist()) == list(range(90))
    assert len(list(content.sheets)) == 1 and not content.notes
    again = content_of(tmp_path, given)
    for name, one in content.arrays.items():
        assert one.tobytes() == again.arrays[name].tobytes()


def test_clusters_of_separate_classes_are_named_by_them(tmp_path):
    content = content_of(tmp_path, columns(90), Options(clusters=3))
    clusters = content.about["columns"][1]
    assert {name[3:] for name in clusters["names"]} == {"ant 100%", "bee 100%", "cow 100%"}
    assert [name[:3] for name in clusters["names"]] == ["1: ", "2: ", "3: "]
    assert "vectors of 4 numbers" in clusters["about"]
    assert "cluster" not in names(content_of(tmp_path, columns(90), Options(clusters=0)))


def test_neighbours_and_outliers_are_computed_from_vectors(tmp_path):
    given = {name: columns(90)[name] for name in ("x", "y", "vector")}
    content = content_of(tmp_path, given)
    ids = NearestNeighbors(n_neighbors=11, metric="cosine").fit(given["vector"])
    distances, rows = ids.kneighbors(given["vector"])
    assert (np.sort(content.arrays["neighbours"]) == np.sort(rows[:, 1:])).all()
    assert names(content) == ["cluster", "outlier"]
    outlier = content.arrays[f"column-{content.about['outlier']}"]
    assert np.allclose(outlier, distances[:, 1:].mean(axis=1), atol=1e-5)
    assert content.about["neighbours"]["source"] == "cosine distance of the vectors"


@pytest.mark.parametrize("has_vectors", [True, False])
def test_neighbours_without_distances(tmp_path, has_vectors):
    given = columns(30)
    near = [{"ids": one["ids"], "distances": [np.nan] * 3} for one in given["neighbours"]]
    names_ = ("x", "y", "vector") if has_vectors else ("x", "y")
    content = content_of(tmp_path, {name: given[name] for name in names_} | {"neighbours": near})
    assert content.arrays["neighbours"][0, :3].tolist() == [1, 2, 3]
    if not has_vectors:
        assert content.about["outlier"] is None and names(content) == ["cluster"]
        return
    outlier = content.arrays[f"column-{content.about['outlier']}"]
    theirs = cosine_distances(given["vector"])
    ids = [one["ids"] for one in given["neighbours"]]
    assert np.allclose(outlier, np.take_along_axis(theirs, np.array(ids), 1).mean(1), atol=1e-6)


def test_outliers_are_means_of_the_known_distances(tmp_path):
    near = [{"ids": [1, 2], "distances": [0.5, None]}, {"ids": [0], "distances": [np.inf]}]
    near.append({"ids": [0, 1], "distances": [0.5, 1.0]})
    content = content_of(tmp_path, {"x": np.arange(3.0), "y": np.ones(3), "neighbours": near})
    outlier = content.arrays[f"column-{content.about['outlier']}"]
    assert np.array_equal(outlier, [0.5, np.nan, 0.75], equal_nan=True)


@pytest.mark.parametrize("odd", ["NaN", "1e400", "9" * 400])
def test_impossible_figures_of_others_are_measured_again(tmp_path, odd):
    given = columns(90)
    figures = {"k": 10, "compared": 0, "map": {"pca": {"trustworthiness": 0}}}
    metadata = json.dumps({"projection": "pca", "figures": figures}).replace(": 0", f": {odd}")
    file = write(tmp_path / "a.parquet", given, {"mae": metadata})
    content = read_content(read_table(file))
    write_page(content, tmp_path / "map.html")
    assert content.about["trust"]["images"] == 90 and content.about["trust"]["map"] <= 1


def test_a_side_without_room_is_refused_first(tmp_path, monkeypatch):
    monkeypatch.setattr(thumbnails, "MOST_BYTES", 30 * 3 * 50**2)
    with pytest.raises(UserError, match=r"--side 64: 30 thumbnails .* use --side 50 or smaller"):
        content_of(tmp_path, columns(30), Options(side=64))


@pytest.mark.parametrize("count", [1, 2, 20])
def test_places_alone(tmp_path, count):
    content = content_of(tmp_path, {"x": np.arange(count) / 7, "y": np.ones(count)})
    assert content.about["neighbours"]["count"] == 0 and content.about["outlier"] is None
    assert content.about["trust"] is None and not list(content.sheets)
    assert content.notes == ["no thumbnails: no image in column image"]
    assert names(content) == (["cluster"] if count > 1 else [])


def test_texts_called_outlier_are_classes(tmp_path):
    given = {**columns(20), "outlier": ["yes", "no"] * 10}
    assert content_of(tmp_path, given).about["outlier"] is None


def test_bad_thumbnails_are_noted(tmp_path):
    given = columns(30)
    given["image"][4] = {"bytes": b"none", "path": None}
    content = content_of(tmp_path, given)
    assert content.arrays["cells"][4] == -1
    assert "1 of 30 thumbnails cannot be shown, first image-0004: " in content.notes[0]


def test_a_title_is_on_one_line(tmp_path):
    title = content_of(tmp_path, columns(3), Options(title="a\x1b[2Jb")).about["title"]
    assert title == "a\\x1b[2Jb"
