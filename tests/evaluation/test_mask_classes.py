import numpy as np
import pytest
from PIL import Image

from mae.base.errors import UserError
from mae.decoding.mask_files import COLOUR, GRAY, PALETTE, StoredMask
from mae.evaluation.mask_classes import BINARY, CLASSES, IGNORE, MaskOptions, mask_classes
from mae.evaluation.mask_survey import Survey, summarise
from mae.evaluation.mask_table import MaskTable


def gray(*values, top=255, lossy=False):
    return StoredMask(np.array([values], np.uint32), GRAY, top, lossy)


def classes_of(*masks, options=None):
    """Classes of masks, the last of which are the test data's."""
    options = options or MaskOptions()
    survey = Survey(options.table)
    for i, mask in enumerate(masks):
        survey.add("--test" if i == len(masks) - 1 else "--train", summarise(f"mask {i}", mask))
    return mask_classes(survey, options), survey


def soft_disc(blur=1.0):
    """A disc of 255 with gray edges: every level in between occurs."""
    y, x = np.mgrid[:200, :200]
    edge = (60 - np.hypot(y - 100, x - 100)) / blur
    return StoredMask((255 * (edge + 0.5).clip(0, 1)).astype(np.uint32), GRAY, 255, False)


def test_binary_masks_with_gray_edges_are_recognised():
    disc = soft_disc(4)
    assert len(np.unique(disc.values)) > 100
    found, survey = classes_of(gray(0, 0), disc, gray(0, 255))
    assert found.reading == BINARY and found.names == ["background", "foreground"]
    assert found.void is None and "foreground from 128 up" in found.about
    assert "of the pixels are between the two values" in found.about
    np.testing.assert_array_equal(found.of(disc), disc.values >= 128)
    assert found.seen(survey, "--test") == [0, 1] and found.background() == 0


@pytest.mark.parametrize(
    ("masks", "values"),
    [
        ([gray(0, 1, top=1)], [0, 1]),
        ([gray(0, 255), gray(0, 1, top=1)], [0, 1]),  # what an optimiser of PNGs makes of it
        ([gray(0, 65_535, top=65_535)], [0, 1]),
        ([gray(0, 255), gray(0, 65_535, top=65_535)], [0, 1]),
        ([gray(255, 255)], [1, 1]),
        ([gray(*[2] * 9, *[250] * 9, 120, lossy=True)], [0] * 9 + [1] * 9 + [0]),
    ],
)
def test_binary_masks_of_every_depth(masks, values):
    found, _ = classes_of(*masks)
    assert found.reading == BINARY
    assert [found.of(mask)[0].tolist() for mask in masks] == [values] * len(masks)


def test_class_maps_keep_their_numbers_and_void():
    voc = gray(0, 0, 3, 20, 255)
    found, survey = classes_of(gray(0, 7), voc)
    assert found.reading == CLASSES and found.numbers == [0, 3, 7, 20] and found.void == 255
    assert found.of(voc).tolist() == [[0, 0, 1, 3, IGNORE]]
    assert [found.numbers[c] for c in found.seen(survey, "--test")] == [0, 3, 20]
    assert "255 is void, 14.29% of the pixels" in found.about
    many = gray(*range(150))  # in several masks: none has more than some dozens
    found, _ = classes_of(*(gray(*part) for part in np.split(many.values[0], 5)))
    assert found.numbers == list(range(150))
    deep, _ = classes_of(gray(0, 300, 255, top=65_535))
    assert deep.numbers == [0, 300]


def test_void_is_a_setting():
    mask = gray(0, 1, 255)
    assert classes_of(mask, options=MaskOptions(void="none"))[0].numbers == [0, 1, 255]
    found, _ = classes_of(mask, options=MaskOptions(void=0))
    assert found.numbers == [1, 255] and found.of(mask).tolist() == [[IGNORE, 0, 1]]
    two, _ = classes_of(gray(0, 255), options=MaskOptions(void=255))
    assert two.reading == CLASSES and two.numbers == [0]
    assert classes_of(gray(0, 255), options=MaskOptions(void="none"))[0].reading == BINARY


@pytest.mark.parametrize(
    ("masks", "line"),
    [
        ([gray(*range(0, 256, 2))], r"mask 0: 128 gray levels in one mask \(gray levels 0 2 4"),
        ([gray(0, 128, 255)], "gray levels 0 128 255: class numbers have no such gaps, and 255"),
        ([gray(0, 65_535, 7, top=65_535)], "of 16 bits: class numbers .*give --void 65535"),
        ([gray(0, 1, 90, lossy=True)], r"lossy \(JPEG\).*gray levels 0 1 90.*store PNG"),
        ([gray(0, 1, top=1), gray(0, 5)], "masks of several kinds: gray levels 0 1 in mask 0; "),
        ([StoredMask(np.array([[9, 0xFF0000]], np.uint32), COLOUR, 0xFFFFFF, False)], "255,0,0"),
    ],
)
def test_other_masks_are_refused_with_their_values(masks, line):
    with pytest.raises(UserError, match=line) as error:
        classes_of(*masks)
    if len(masks) == 1:
        assert "--palette" in str(error.value) or "--masks" in str(error.value)


def test_the_reading_can_be_set():
    gaps = gray(0, 127, 128, 255)
    found, _ = classes_of(gaps, options=MaskOptions(reading=BINARY))
    assert found.of(gaps).tolist() == [[0, 0, 1, 1]]
    found, _ = classes_of(gaps, options=MaskOptions(reading=CLASSES))
    assert found.numbers == [0, 127, 128]
    with pytest.raises(UserError, match="--void 3: binary masks have no void"):
        classes_of(gaps, options=MaskOptions(reading=BINARY, void=3))
    with pytest.raises(UserError, match=r"256 values .*more than 255 classes"):
        options = MaskOptions(reading=CLASSES, void="none")
        classes_of(gray(*range(256)), options=options)


def test_palettes_must_agree():
    def palette(*colours):
        return StoredMask(
            np.array([[0, 1]], np.uint32), PALETTE, 255, False, np.array(colours, np.uint32)
        )

    found, _ = classes_of(palette(0, 5), palette(0, 5))
    assert found.numbers == [0, 1]
    with pytest.raises(UserError, match="mask 1: palette index 1 is 0,0,6, but 0,0,5 in mask 0"):
        classes_of(palette(0, 5), palette(0, 6))


def test_a_table_gives_classes_and_names(tmp_path):
    colours = MaskTable(tmp_path / "p.csv", True, ["road", "car"], {0xFF0000: 0, 9: 1, 0: None})
    mask = StoredMask(np.array([[9, 0xFF0000, 0]], np.uint32), COLOUR, 0xFFFFFF, False)
    found, _ = classes_of(mask, options=MaskOptions(colours))
    assert found.names == ["road", "car"] and found.of(mask).tolist() == [[1, 0, IGNORE]]
    assert "p.csv; void: 33.33% of the pixels" in found.about
    other = StoredMask(np.array([[8]], np.uint32), COLOUR, 0xFFFFFF, False)
    with pytest.raises(UserError, match=r"mask 0: colours of the mask are not in .*: 0,0,8"):
        classes_of(other, options=MaskOptions(colours))
    values = MaskTable(tmp_path / "v.csv", False, ["good", "crack"], {0: 0, 60: 1, 61: 1})
    found, _ = classes_of(gray(0, 60, 61), options=MaskOptions(values))
    assert found.of(gray(61, 60, 0)).tolist() == [[1, 1, 0]]
    with pytest.raises(UserError, match=r"v.csv: --palette has no line for values .*: 62 255"):
        classes_of(gray(0, 62, 255), options=MaskOptions(values))
    named = MaskTable(tmp_path / "b.csv", False, ["good", "crack"], {0: 0, 255: 1})
    found, _ = classes_of(soft_disc(), options=MaskOptions(named))
    assert found.reading == BINARY and found.names == ["good", "crack"]


def test_background_needs_a_class():
    found, _ = classes_of(gray(0, 1, 255), options=MaskOptions(void=0))
    with pytest.raises(UserError, match="the value 0 of the masks has no class"):
        found.background()


def test_pixels_are_summarised():
    image = Image.new("L", (4, 1))
    image.putdata([5, 5, 0, 5])
    found = summarise("a", StoredMask(np.asarray(image).astype(np.uint32), GRAY, 255, False))
    assert found.values.tolist() == [0, 5] and found.pixels.tolist() == [1, 3]
