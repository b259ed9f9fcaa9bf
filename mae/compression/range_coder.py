"""Range coder (Martin 1979, "Range encoding") in integers alone: the same bytes on any machine.

A symbol is an interval `start` to `start + frequency` of TOTAL.  The last bytes are as few as
possible: a payload exceeds its ideal length by less than two bytes.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

PRECISION = 24
TOTAL = 1 << PRECISION
"""sum of the frequencies of a table"""
WINDOW = 64
"""bits of the interval that are not written yet"""
STEP = 16
"""bits written at a time"""
FULL = 1 << WINDOW
LEAST = 1 << (WINDOW - STEP)
"""width of the interval from which on bits are written"""
LOW_BITS = LEAST - 1


def encode(starts: Iterable[int], frequencies: Iterable[int]) -> bytes:
    """Bytes of symbols, of which `starts` and `frequencies` are the intervals, in their order."""
    low, width, words = 0, FULL, []
    for start, frequency in zip(starts, frequencies, strict=True):
        unit = width >> PRECISION
        low += start * unit
        width = frequency * unit
        if low >= FULL:
            low -= FULL
            _carry(words)
        while width < LEAST:
            words.append(low >> (WINDOW - STEP))
            low = (low & LOW_BITS) << STEP
            width <<= STEP
    return _with_end(words, low, width)


def _carry(words: list[int]) -> None:
    """Add one to the number that the words are the digits of."""
    place = len(words) - 1
    while words[place] == (1 << STEP) - 1:
        words[place] = 0
        place -= 1
    words[place] += 1


def _with_end(words: list[int], low: int, width: int) -> bytes:
    """Bytes of the words and of the shortest number in the last interval.

    Zeros at the end are left out, as the decoder continues with zeros.
    """
    for bits in range(0, WINDOW + 1, 8):
        unit = 1 << (WINDOW - bits)
        last = -(-low // unit) * unit
        if last < low + width:
            break
    if last >= FULL:
        last -= FULL
        _carry(words)
    written = b"".join(word.to_bytes(STEP // 8, "big") for word in words)
    return (written + last.to_bytes(WINDOW // 8, "big")).rstrip(b"\0")


class Decoder:
    """Symbols of a payload, one after the other; any bytes decode to some symbols."""

    def __init__(self, payload: bytes) -> None:
        self.payload, self.place = payload, WINDOW // 8
        self.offset = int.from_bytes(payload[: self.place].ljust(self.place, b"\0"), "big")
        """place of the payload's number in the interval"""
        self.width = FULL

    def symbol(self, cumulative: Sequence[int]) -> int:
        """Next symbol; `cumulative`: starts of all symbols' intervals, ascending from 0."""
        unit = self.width >> PRECISION
        slot = min(self.offset // unit, TOTAL - 1)
        found = bisect_right(cumulative, slot) - 1
        start = int(cumulative[found])
        end = int(cumulative[found + 1]) if found + 1 < len(cumulative) else TOTAL
        self.offset -= start * unit
        self.width = (end - start) * unit
        while self.width < LEAST:
            self.width <<= STEP
            word = self.payload[self.place : self.place + STEP // 8].ljust(STEP // 8, b"\0")
            self.offset = self.offset << STEP | int.from_bytes(word, "big")
            self.place += STEP // 8
        return found
