import numpy as np
import torch

from mae.evaluation.nearest import centre_of, nearest
from mae.pictures.neighbours import neighbours_sheet


def test_nearest_has_largest_cosines_and_stable_ties():
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(4, 5)).astype(np.float32)
    among = rng.normal(size=(20, 5)).astype(np.float32)
    among[7] = 3 * queries[1]  # length does not matter
    among[11] = among[7]
    found = nearest(queries, among, 6)
    for i, query in enumerate(queries.astype(np.float64)):
        cosine = among @ query / np.linalg.norm(among, axis=1) / np.linalg.norm(query)
        np.testing.assert_allclose(found.cosine[i], np.sort(cosine)[::-1][:6], atol=1e-6)
    assert found.rows[1, :2].tolist() == [7, 11]
    assert nearest(queries, among[:3], 6).rows.shape == (4, 3)


def test_the_centre_takes_off_what_all_have_in_common():
    rng = np.random.default_rng(0)
    among = (100 + rng.normal(size=(20, 5))).astype(np.float32)
    raw = nearest(among[:2], among, 20)
    assert raw.cosine.min() > 0.99
    centre = centre_of(among)
    np.testing.assert_allclose(centre, among.astype(np.float64).mean(axis=0))
    found = nearest(among[:2], among, 20, centre=centre)
    assert found.rows[:, 0].tolist() == [0, 1] and found.cosine.min() < -0.2
    assert centre_of(among[:1]).tolist() == [0] * 5


def test_sheet_shows_similarity_and_names():
    found = nearest(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), 2)
    pictures = [torch.full((2, 3, 4, 4), value, dtype=torch.uint8) for value in (10, 200)]
    captions = [["x", "y\nclass 3"], ["y\nclass 3", "x"]]
    queries = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    sheet = neighbours_sheet(queries, ["a", "b"], found, pictures, captions, 2, "title")
    assert sheet.heads == ["query", "1.", "2."]
    assert [cell.caption for cell in sheet.rows[0]] == ["a", "1.000\nx", "0.000\ny\nclass 3"]
    assert sheet.rows[1][1].picture.getpixel((0, 0)) == (200, 200, 200)
    assert "similarity of the mean patch token (below" in sheet.notes[0]
    other = neighbours_sheet(queries, ["a", "b"], found, pictures, captions, 2, "", "latents")
    assert "similarity of the feature `latents` (below" in other.notes[0]
