"""Types of command-line arguments: text → value; argparse prints what they refuse."""

import argparse


def positive(text: str) -> int:
    """Integer of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def natural(text: str) -> int:
    """Integer of 0 or more, below 2**63."""
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 2**63)")
    return value


def amount(text: str) -> float:
    """Positive, finite number."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def not_negative(text: str) -> float:
    """Finite number of 0 or more."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of 0 or more")
    return value


def percent(text: str) -> int:
    """Integer from 1 to 100."""
    value = int(text)
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not in 1..100")
    return value


def percentage(text: str) -> float:
    """Number above 0, up to 100."""
    value = float(text)
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not in (0, 100]")
    return value


def share(text: str) -> float:
    """Number in [0, 1)."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


def part(text: str) -> tuple[int, int]:
    """(I - 1, N) of the text I/N, with 1 ≤ I ≤ N."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text} is not I/N with I from 1 to N, such as 3/8")
    return int(number) - 1, int(count)
