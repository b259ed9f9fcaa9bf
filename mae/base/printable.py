"""Names of files for terminals and pages."""

import unicodedata

ESCAPED = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories: control characters, bytes outside UTF-8, line and paragraph separators"""
DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""controls of the writing direction, which may show a name in another order"""


def printable(name: str) -> str:
    """`name` on one line: line ends, control characters and bytes outside UTF-8 are escaped."""
    if name.isprintable():
        return name
    return "".join(
        letter.encode("unicode_escape").decode()
        if unicodedata.category(letter) in ESCAPED or letter in DIRECTIONS
        else letter
        for letter in name
    )
