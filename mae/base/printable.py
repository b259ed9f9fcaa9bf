"""Names of files for terminals and pages."""


def printable(name: str) -> str:
    """`name` on one line: line ends, control characters and bytes outside UTF-8 are escaped."""
    if name.isprintable():
        return name
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in name
    )
