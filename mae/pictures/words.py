"""Text drawn on pictures, in Pillow's own font."""

from PIL import Image, ImageDraw, ImageFont

UNDRAWABLE = {ord("²"): "2", ord("√"): "sqrt ", ord("·"): "*", ord("–"): "-", ord("é"): "e"}
"""replacements of characters that Pillow's font lacks; HTML keeps the originals"""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def wrapped(words: str, font: Font, width: float) -> list[str]:
    """Wrap text into lines of at most `width` pixels, broken between words."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def shortened(words: str, font: Font, width: float) -> str:
    """Shorten text to at most `width` pixels, with … in the middle."""
    kept = len(words)
    cut = words
    while kept and font.getlength(cut) > width:
        kept -= 1
        cut = f"{words[: (kept + 1) // 2]}…{words[len(words) - kept // 2 :]}"
    return cut


def write(
    canvas: Image.Image,
    place: tuple[int, int],
    words: str,
    font: Font,
    fill: str,
    width: float | None = None,
) -> None:
    """Draw a line of text, `shortened` to `width` pixels if given."""
    words = words.translate(UNDRAWABLE)
    shown = words if width is None else shortened(words, font, width)
    ImageDraw.Draw(canvas).text(place, shown, fill=fill, font=font)
