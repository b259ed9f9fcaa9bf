"""Chunks of PNG files."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT")


def without_metadata(data: bytes | bytearray) -> bytes | bytearray:
    """The PNG without chunks that say nothing about pixels, such as texts and colour profiles.

    Decoders bound their number and size, also after decompression, and refuse the image for them.
    Critical chunks all stay.  Other files, and what follows a broken chunk, are returned as they
    are.
    """
    if data[:8] != SIGNATURE:
        return data
    kept, start, place = [], 0, 8  # parts of the file; the start of the one that grows
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        name = bytes(data[place + 4 : place + 8])
        # The case of the first letter marks a chunk as ancillary (PNG specification, section 5.4).
        is_metadata = name.isalpha() and name[:1].islower() and name not in PIXEL_CHUNKS
        if end > len(data):
            break
        if is_metadata:
            kept.append(data[start:place])
            start = end
        place = end
        if name == b"IEND":
            break
    return b"".join([*kept, data[start:]]) if kept else data
