import io

import numpy as np
import pytest
from PIL import Image

from mae.base.errors import UserError
from mae.evaluation.segmentation_masks import BACKGROUND, SKIP, Masks
from tests.evaluation.frozen import images_of
from tests.evaluation.surveys import survey_of

HEIGHT, WIDTH = 20, 32
BLACK = np.zeros((HEIGHT, WIDTH), np.uint8)


def saved(pixels, format="PNG", turn=1):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(pixels).save(file, format, **({} if turn == 1 else {"exif": exif}))
    return file.getvalue()


def survey_of_tar(path, *members, make_tar):
    images = images_of(str(make_tar(path, members)), "--test")
    return survey_of(images, Masks(images, "--test"))


def test_masks_of_another_size_are_refused(tmp_path, make_tar):
    good = ("a.jpg", saved(BLACK, "JPEG")), ("a.mask.png", saved(BLACK))
    for name, small in (("b", BLACK[1:]), ("c", BLACK[:, :10])):
        members = (f"{name}.jpg", saved(BLACK, "JPEG")), (f"{name}.mask.png", saved(small))
        good = (*good, *members)
    line = (
        r"--test: .*s.tar: key b: the mask has 32 × 19 pixels, the image 32 × 20 \(2 of 3 masks\)"
    )
    with pytest.raises(UserError, match=line):
        survey_of_tar(tmp_path / "s.tar", *good, make_tar=make_tar)


@pytest.mark.parametrize(
    ("turn", "mask", "line"),
    [
        (6, BLACK.T, "the mask has 20 × 32 pixels, the image 32 × 20 and EXIF orientation 6"),
        (3, BLACK, "the image has EXIF orientation 3, which is not applied; the mask may be of"),
        (6, BLACK, None),  # stored pixels: turned ones would have another size
        (1, BLACK, None),
    ],
)
def test_turned_images_and_masks_are_refused(tmp_path, make_tar, turn, mask, line):
    members = ("a.jpg", saved(BLACK, "JPEG", turn)), ("a.mask.png", saved(mask))
    if line is None:
        survey = survey_of_tar(tmp_path / "s.tar", *members, make_tar=make_tar)
        assert survey.seen == {"--test": {(255, 0)}}
    else:
        with pytest.raises(UserError, match=f"key a: {line}.*exif_transpose"):
            survey_of_tar(tmp_path / "s.tar", *members, make_tar=make_tar)


def test_images_without_a_mask_are_counted(tmp_path, make_tar):
    members = [(f"{i}.png", saved(BLACK)) for i in range(4)]
    members += [(f"{i}.mask.png", saved(BLACK + i)) for i in (1, 3)]
    images = images_of(str(make_tar(tmp_path / "s.tar", members)))
    with pytest.raises(UserError, match=r"2 of 4 images have no mask .*key 0; see --unmasked"):
        Masks(images, "--train")
    for unmasked, samples in ((SKIP, [1, 3]), (BACKGROUND, [0, 1, 2, 3])):
        masks = Masks(images, "--train", unmasked=unmasked)
        assert masks.missing.tolist() == [0, 2] and masks.samples.tolist() == samples
        assert masks[0] is None
        assert survey_of(images, masks).seen == {"--train": {(255, 1), (255, 3)}}
    none = images_of(str(make_tar(tmp_path / "n.tar", members[:1])))
    with pytest.raises(UserError, match="1 of 1 images have no mask"):
        Masks(none, "--train", unmasked=SKIP)
