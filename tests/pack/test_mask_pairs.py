import io

import numpy as np
import pytest
from PIL import Image

from mae.base.errors import UserError
from mae.data.images import Images
from mae.data.indexing import build_manifest
from mae.evaluation.segmentation_masks import Masks
from mae.pack.listing import PackRequest
from mae.pack.mask_pairs import pair_masks, refuse_unnamed_masks
from mae.pack.pack import pack
from mae.pack.shard_plan import PackOptions


@pytest.mark.parametrize(
    ("pattern", "pairs"),
    [
        ("*_mask.png", {"a/1.jpg": "a/1_mask.png", "2.png": "2_mask.png"}),
        ("*.png", {"a/1.jpg": "a/1.png", "2.tif": "2.png"}),
        ("mask-*.png", {"a/1.jpg": "a/mask-1.png"}),
        ("masks/*.png", {"images/a/1.jpg": "masks/a/1.png", "images/2.png": "masks/2.png"}),
        (
            "masks/*.png",
            {"train/images/1.jpg": "train/masks/1.png", "v/1.jpg": "v/masks/1.png"},
        ),
        ("masks/*_m.png", {"1.jpg": "masks/1_m.png"}),
        ("a [b]/*.png", {"i/1.jpg": "a [b]/1.png"}),
        ("*.mask.png", {"x.y.jpg": "x.y.mask.png"}),
    ],
)
def test_masks_find_their_images(pattern, pairs):
    found = pair_masks([*pairs.values(), *pairs, "lonely.jpg"], pattern, "photos")
    assert found.mask_of == pairs and found.unpaired == []
    assert found.images == [*pairs, "lonely.jpg"]


@pytest.mark.parametrize(
    ("pattern", "paths", "message"),
    [
        ("*_m.png", ["1.jpg"], "photos: --masks '*_m.png': matches none of 1 files"),
        ("*_m.*", ["1.jpg"], "write `*` once, for the image's name, and .png or .jpg at the end"),
        ("masks", ["1.jpg"], "write `*` once"),
        ("*.png", ["1.jpg", "1.jpeg", "1.png"], "1.png, 1.jpg, 1.jpeg: a mask of several images"),
        (
            "masks/*.png",
            ["cat/1.jpg", "dog/1.jpg", "masks/1.png"],
            "masks/1.png, cat/1.jpg, dog/1.jpg: a mask of several images",
        ),
        (
            "masks/*.png",
            ["a/1.jpg", "a/masks/1.png", "masks/1.png"],
            "a/1.jpg, a/masks/1.png, masks/1.png: an image with two masks",
        ),
    ],
)
def test_ambiguous_patterns_are_refused(pattern, paths, message):
    with pytest.raises(UserError) as error:
        pair_masks(paths, pattern, "photos")
    assert message in str(error.value)


def test_masks_without_an_image_are_named():
    found = pair_masks(["1.jpg", "1_m.png", "2_m.png"], "*_m.png", "photos")
    assert found.unpaired == ["2_m.png"]


@pytest.mark.parametrize(
    ("paths", "pattern"),
    [
        (["1.jpg", "1_mask.png", "2.jpg"], "'*_mask.png'"),
        (["a/1.png", "a/1-seg.png"], "'*-seg.png'"),
        (["a/1.jpg", "a/1_gt.jpg"], "'*_gt.jpg'"),
        (["images/1.jpg", "masks/1.jpg"], "'masks/*.jpg'"),
        (["images/1.tif", "masks/1.tif"], "'masks/*.tif'"),
        (["images/1.jpg", "masks/1.png"], "'masks/*.png'"),
        (["images/1.jpg", "Annotations/1_mask.PNG"], "'Annotations/*_mask.PNG'"),
        (["train/images/1.png", "train/labels/1.png"], "'labels/*.png'"),
        (["1.jpg", "1.png", "2.jpg", "2.png"], "'*.png'"),
    ],
)
def test_likely_masks_are_not_taken_for_images(paths, pattern):
    with pytest.raises(UserError) as error:
        refuse_unnamed_masks(paths, "photos")
    (line,) = str(error.value).splitlines()
    assert "look like masks of images, first" in line and f"--masks {pattern} packs" in line


def test_masks_that_fit_two_images_are_not_taken_for_images():
    with pytest.raises(
        UserError,
        match=r"1_mask.png, 1.jpg, 1.tif: a mask of several .*none",
    ):
        refuse_unnamed_masks(["1.jpg", "1.tif", "1_mask.png"], "photos")


@pytest.mark.parametrize(
    "paths",
    [
        ["cat/1.jpg", "dog/1.png"],
        ["cat/1.png", "dog/1.png", "cat/2.png", "dog/2.png"],
        ["1.jpg", "1.png", "2.jpg"],
        ["1.jpg", "1.png", "1.jpeg", "2.jpg", "2.png"],
        ["1.jpg", "unmask.png", "gas mask.png"],
        ["mask/a.png", "no mask/b.png"],
    ],
)
def test_other_names_are_images(paths):
    refuse_unnamed_masks(paths, "photos")


@pytest.fixture
def photos(tmp_path, make_image):
    folder = tmp_path / "photos"
    for number in range(4):
        image = Image.fromarray(make_image(number, (12, 16)))
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        image.save(folder / "images" / f"{number}.jpg")
        mask = np.full((12, 16), number, np.uint8)
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    return folder


def packed(photos, out, **options):
    request = PackRequest((str(photos),), masks="masks/*.png")
    return pack(request, out, PackOptions(**options))


def test_masks_are_packed_as_segmentation_reads_them(photos, tmp_path):
    report = packed(photos, tmp_path / "out", shard_size=3)
    assert report.splits == {"train": 4} and report.labels == 0
    assert report.excluded[0] == ("masks of these", 4)
    manifest = build_manifest([f"{tmp_path}/out/*.tar"])
    rows = (tmp_path / "out" / "sources.tsv").read_text().splitlines()[1:]
    source = dict(row.split("\t") for row in rows)
    masks = Masks(Images(manifest, 3, 8, None), "--test")
    for sample in range(4):
        name = source[manifest.key(sample)].removeprefix("images/").removesuffix(".jpg")
        mask = masks[sample]
        assert mask is not None and (mask.values == int(name)).all()


def test_masks_in_jpeg_are_packed_as_segmentation_reads_them(photos, tmp_path):
    for path in list((photos / "masks").iterdir()):
        Image.open(path).point(lambda value: 255 * (value > 1)).save(path.with_suffix(".jpg"))
        path.unlink()
    request = PackRequest((str(photos),), masks="masks/*.jpg")
    assert pack(request, tmp_path / "out").splits == {"train": 4}
    masks = Masks(Images(build_manifest([f"{tmp_path}/out/*.tar"]), 3, 8, None), "--test")
    found = [masks[sample] for sample in range(4)]
    assert sorted(int(np.median(mask.values)) for mask in found if mask) == [0, 0, 255, 255]


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (Image.new("RGBA", (16, 12)), "mask masks/1.png: has transparent pixels"),
        (Image.new("L", (12, 16)), "mask masks/1.png: 12 x 16 pixels, the image 16 x 12"),
        (None, "mask masks/1.png: does not decode"),
    ],
)
def test_unusable_masks_are_named(mask, reason, photos, tmp_path):
    file = io.BytesIO(b"\x89PNG")
    if mask is not None:
        mask.save(file, "PNG")
    (photos / "masks" / "1.png").write_bytes(file.getvalue())
    report = packed(photos, tmp_path / "out")
    assert report.splits == {"train": 3}
    ((name, why),) = report.skipped
    assert name == "images/1.jpg" and why.startswith(reason)


def test_masks_and_resize_are_refused(photos, tmp_path):
    with pytest.raises(UserError, match="--resize: images with --masks keep their size"):
        packed(photos, tmp_path / "out", resize=8)
