from PIL import ImageFont

from mae.pictures.words import shortened, wrapped

FONT = ImageFont.load_default(12)


def test_text_is_wrapped_and_shortened():
    words = "the quick brown fox jumps over the lazy dog"
    lines = wrapped(words, FONT, 90)
    assert " ".join(lines) == words and len(lines) > 2
    assert all(FONT.getlength(line) <= 90 for line in lines)
    cut = shortened("train-000012-000345", FONT, 80)
    assert cut.startswith("train") and "…" in cut and cut.endswith("345")
    assert FONT.getlength(cut) <= 80 and shortened("short", FONT, 80) == "short"
