import pytest

from mae.base.errors import UserError
from mae.pack.selection import is_system_name, select

PATHS = ["a.jpg", "cat/b.jpg", "cat/thumbs/c.jpg", "dog/[x]/d.png", "dog/thumbs/e.PNG"]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ([], [], PATHS),
        (["*.jpg"], [], PATHS[:3]),
        ([], ["thumbs"], [PATHS[0], PATHS[1], PATHS[3]]),
        ([], ["thumbs/"], [PATHS[0], PATHS[1], PATHS[3]]),
        ([], ["cat/thumbs"], [PATHS[0], PATHS[1], *PATHS[3:]]),
        (["cat", "dog"], ["*.png", "*.PNG"], PATHS[1:3]),
        (["./cat/*"], [], PATHS[1:3]),
        (["[x]"], [], [PATHS[3]]),
        (["*/thumbs/*"], [], [PATHS[2], PATHS[4]]),
        (["?.jpg"], ["a.jpg"], PATHS[1:3]),
    ],
)
def test_patterns(include, exclude, expected):
    assert select(PATHS, include, exclude, "photos") == expected


@pytest.mark.parametrize(
    ("include", "exclude", "message"),
    [
        (["*.gif"], [], "--include *.gif: photos: matches none of 5 files"),
        ([], ["thumb"], "--exclude thumb: photos: matches none of 5 files"),
        ([], ["*"], "photos: --include and --exclude leave no file of 5"),
    ],
)
def test_patterns_that_select_nothing_are_refused(include, exclude, message):
    with pytest.raises(UserError) as error:
        select(PATHS, include, exclude, "photos")
    assert str(error.value) == message


def test_system_names():
    names = ("@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", ".Trash-1000")
    names += ("__MACOSX", ".ipynb_checkpoints", "Thumbs.db", "._x.jpg", "#recycle", ".snapshot")
    assert all(map(is_system_name, names))
    assert not any(map(is_system_name, ("cat", "x.jpg", "_x", "#1", "macosx")))
