import pytest

from mae.base.printable import printable


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("写真\u3000ü (1).jpg", "写真\u3000ü (1).jpg"),
        ("at 1.00\u202fPM.png", "at 1.00\u202fPM.png"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\udcff.jpg", "\\udcff.jpg"),
        ("a\u2028b", "a\\u2028b"),
        ("a\rmae: all good", "a\\rmae: all good"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("a\x9b2Jb\u2066c", "a\\x9b2Jb\\u2066c"),
        ("käse 😀.jpg", "käse 😀.jpg"),
        ("gpj\u202e.exe", "gpj\\u202e.exe"),
    ],
)
def test_names_stay_on_their_line(name, expected):
    assert printable(name) == expected
