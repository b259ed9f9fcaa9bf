"""Images to pack, in columns."""

import pickle

import numpy as np

from mae.pack.image_sources import Paths, Source, Sources


def test_columns_hold_what_objects_do():
    paths = ["a/é.jpg", "b\udcff.PNG", "c.npy"]
    sources = Sources(Paths(paths), ("jpg", "png", "npy"), [3, None, 0], {2: "c_mask.png"})
    expected = [
        Source("a/é.jpg", "jpg", 3),
        Source("b\udcff.PNG", "png", None),
        Source("c.npy", "npy", 0, "c_mask.png"),
    ]
    assert [*sources] == expected and sources[1:] == expected[1:]
    assert sources[-1] == expected[-1]
    assert [*pickle.loads(pickle.dumps(sources))] == expected
    assert sources.label.tolist() == [3, -1, 0]


def test_other_labels_leave_the_first_ones():
    sources = Sources(range(2), ("jpg", "png"))
    changed = sources.with_labels(np.array([1, -1]))
    assert [one.label for one in changed] == [1, None]
    assert [one.label for one in sources] == [None, None]
    assert [one.reference for one in changed] == [0, 1]


def test_no_paths():
    assert [*Sources(Paths([]), ())] == []
