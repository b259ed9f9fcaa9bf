"""Whether the codes of LZW data are of strings that exist.

imagecodecs does not ask: it follows wrong codes out of its memory, and the process dies.
"""

import numpy as np

from mae.decoding.pixels import BadImage

CLEAR, END, FIRST = 256, 257, 258

# A table of strings grows by one with each code from its second on; codes widen one entry before
# the table needs it (TIFF 6.0, section 13).  So each code's place and width are known ahead.
_entries = np.append(FIRST, np.arange(FIRST, 4096))
WIDTHS = 9 + (_entries >= 511).astype(int) + (_entries >= 1023) + (_entries >= 2047)
PLACES = np.cumsum(WIDTHS) - WIDTHS
# The string that a code is about to add may be its own, but for the first.
MOST = np.append(CLEAR - 1, np.arange(FIRST, 4096))


def check_lzw(data: bytes | bytearray) -> None:
    """Raise BadImage for codes of strings that are not in the table yet."""
    # Three bytes from any place on hold a whole code.
    padded = np.frombuffer(bytes(data) + bytes(3), np.uint8).astype(np.uint32)
    words = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    bits = 8 * len(data)
    if bits < 9 or words[0] >> 15 != CLEAR:
        raise BadImage("does not decode: LZW without a start")
    bit = 9
    while True:
        places = bit + PLACES
        places = places[places + WIDTHS <= bits]
        widths = WIDTHS[: len(places)]
        codes = words[places >> 3] >> (24 - (places & 7) - widths) & ((1 << widths) - 1)
        marks = np.flatnonzero((codes == CLEAR) | (codes == END))
        # Without a mark the data end here, or the table overflows.
        used = marks[0] if len(marks) else len(codes)
        if (codes[:used] > MOST[:used]).any() or used == len(MOST):
            raise BadImage("does not decode: wrong LZW code")
        if not len(marks) or codes[used] == END:
            return
        bit = int(places[used] + widths[used])
