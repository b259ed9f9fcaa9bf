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
        ("gpj\u202e.exe", "gpj\\u202e.exe"),
    ],
)
def test_names_stay_on_their_line(name, expected):
    assert printable(name) == expected
