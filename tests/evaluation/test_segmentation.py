import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from mae.base.errors import SampleError, UserError
from mae.cli import main
from mae.evaluation.dense_tokens import Dense, MaskedImages, encode_dense, sample_patches
from mae.evaluation.encoders import FrozenEncoder
from mae.evaluation.mask_classes import IGNORE, MaskClasses
from mae.evaluation.segmentation import count_predictions
from mae.evaluation.segmentation_classifiers import choose_linear, fit_linear
from mae.evaluation.segmentation_masks import MaskedViews, Masks, Pairs, patch_classes
from mae.evaluation.segmentation_report import segmentation_report, segmentation_table
from mae.networks.patches import patchify
from tests.evaluation.frozen import images_of, tiny_run
from tests.evaluation.surveys import classes_of
from tests.evaluation.test_features import spoil

COLOURS = np.array([[120, 120, 120], [220, 40, 40], [40, 60, 220]])
SIZE = 32


def scene(number):
    """Noise, and a red or blue shape on gray ground: pixels [h w 3] and classes [h w]."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:SIZE, :SIZE]
    cy, cx, r = rng.uniform(8, 24), rng.uniform(8, 24), rng.uniform(5, 9)
    is_disc = number % 2 == 0
    inside = np.hypot(y - cy, x - cx) < r if is_disc else np.maximum(abs(y - cy), abs(x - cx)) < r
    classes = np.where(inside, 1 + number % 2, 0).astype(np.uint8)
    noise = 25 * rng.standard_normal((SIZE, SIZE, 3))
    return (COLOURS[classes] + noise).clip(0, 255).astype(np.uint8), classes


def png(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, options.pop("format", "PNG"), **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def make_scenes(make_tar):
    """`make_scenes(folder, numbers)` → glob pattern of shards with masks.

    `classes`: what ground, disc and square are called.
    """

    def make(folder, numbers, ending="mask.png", classes=(0, 1, 2)):
        folder.mkdir()
        members = []
        for number in numbers:
            pixels, mask = scene(number)
            members.append((f"{number:04d}.png", png(pixels)))
            members.append((f"{number:04d}.{ending}", png(np.array(classes, np.uint8)[mask])))
        make_tar(folder / "a.tar", members[: len(members) // 4 * 2])
        make_tar(folder / "b.tar", members[len(members) // 4 * 2 :])
        return f"{folder}/*.tar"

    return make


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, make_scenes):
    folder = tmp_path_factory.mktemp("scenes")
    return make_scenes(folder / "train", range(40)), make_scenes(folder / "test", range(100, 120))


def colour_encoder():
    """Tokens are the mean colours of patches of 4 x 4."""

    def encode(images):
        patches = patchify(images.float() / 255, (4, 4)).unflatten(2, (16, 3))
        return {"mean": patches.mean((1, 2)), "tokens": patches.mean(2)}

    return FrozenEncoder(encode, "colours", (SIZE, SIZE), 1.0, "")


def blind_encoder():
    """Tokens are noise."""
    chance = torch.Generator().manual_seed(0)
    return colour_encoder()._replace(
        encode=lambda images: {"tokens": torch.randn(len(images), 64, 8, generator=chance)}
    )


def silent(text):
    pass


def report_of(folder, *given, log=silent, **options):
    """Report of `mae segment`, in one process."""
    found = segmentation_report(*given, out=folder / "out", log=log, **options)
    assert found is not None and not (folder / ".out.parts").exists()
    return found


def masked(pattern, key="--train") -> MaskedImages:
    """Images of a data set with their masks."""
    images = images_of(pattern, key)
    masks = Masks(images, key)
    return MaskedImages(images, masks, classes_of(images, masks), masks.samples)


def encoded(part: MaskedImages) -> Dense:
    """All images of `part`, by their colours."""
    batches = [range(len(part.samples))]
    (found,) = encode_dense(colour_encoder(), part, batches, patch_size=(4, 4))
    assert found.dense is not None
    return found.dense


def test_masks_match_their_images(scenes):
    _, masks, classes, _ = masked(scenes[0])
    for sample in (0, 19, 20, 39):
        stored = masks[sample]
        assert stored is not None
        np.testing.assert_array_equal(classes.of(stored), scene(sample)[1])
        assert masks.manifest.key(sample) == f"{sample:04d}"
    assert classes.numbers == [0, 1, 2] and classes.reading == "classes"


def test_bad_masks_are_named(tmp_path, make_tar):
    pixels, classes = scene(0)

    def open_masks(name, *members):
        path = make_tar(tmp_path / name, [("k.png", png(pixels)), *members])
        images = images_of(str(path))
        return images, Masks(images, "--test")

    with pytest.raises(UserError, match=r"--test: 1 of 1 images have no mask .*0.tar: key k"):
        open_masks("0.tar", ("other.mask.png", png(classes)))
    with pytest.raises(UserError, match=r"no mask .*; found \.mask\.tif, which is not read"):
        open_masks("3.tar", ("k.mask.tif", png(classes)))
    with pytest.raises(UserError, match="key k: more than one mask"):
        open_masks("2.tar", ("k.mask.png", png(classes)), ("k.seg.png", png(classes)))
    lut = {255: np.arange(256, dtype=np.uint8)}
    known = MaskClasses("classes", [0, 1], ["0", "1"], lut, "")
    for content, line in (
        (b"no picture", "the mask does not decode"),
        (png(classes)[:60], "the mask does not decode"),
        (png(classes[:-1]), r"the mask has \[31, 32\] pixels, the image \[32, 32\]"),
    ):
        images, masks = open_masks("1.tar", ("k.mask.png", content))
        (tmp_path / ".mae-index" / "1.tar.safetensors").unlink()
        views = MaskedViews(images, masks, known, (SIZE, SIZE), 1.0)
        found = views[range(1)]
        assert isinstance(found, Pairs) and found.images is None
        (bad,) = found.bad
        assert bad.sample == 0 and "1.tar: key k" in bad.reason
        with pytest.raises(SampleError, match=rf"1\.tar: key k: {line}"):
            views.view(0)
        with pytest.raises(UserError, match=r"--test: .*1\.tar: key k: the mask"):
            classes_of(images, masks)


def test_masks_are_cropped_like_their_images(tmp_path, make_tar):
    """A mask that is the image: both views show the same parts, whatever size and crop."""
    y, x = np.mgrid[:40, :60]
    blocks = ((y // 10) * 6 + x // 10).astype(np.uint8)
    members = [("k.png", png(np.repeat(blocks[..., None] * 9, 3, axis=2)))]
    members += [("k.mask.png", png(blocks))]
    images = images_of(str(make_tar(tmp_path / "m.tar", members)))
    for size, crop_pct in (((40, 60), 1.0), ((30, 30), 1.0), ((32, 16), 0.875)):
        masks = Masks(images, "")
        given = masks, classes_of(images, masks), size, crop_pct
        view = MaskedViews(images, *given).view(0)
        image, mask = view[0][0].float() / 9, view[1].float()
        assert mask.shape == size and ((image - mask).abs() < 0.2).float().mean() > 0.55
        assert (image - mask).mean().abs() < 0.25  # no shift


def test_patches_have_the_class_of_most_of_their_pixels():
    rng = np.random.default_rng(0)
    masks = rng.choice([0, 1, 5, IGNORE], (3, 8, 12), p=[0.3, 0.2, 0.2, 0.3]).astype(np.uint8)
    masks[0, :4, :4] = IGNORE
    masks[0, 4:, :4] = [[5, 0, 0, 5]] * 4  # a tie
    found = patch_classes(torch.from_numpy(masks), (4, 4))
    for image in range(3):
        for n in range(6):
            top, left = n // 3 * 4, n % 3 * 4
            pixels = masks[image, top : top + 4, left : left + 4].flatten()
            counts = np.bincount(pixels[pixels != IGNORE], minlength=6)
            assert found[image, n] == (counts.argmax() if counts.any() else IGNORE)
    assert found[0, 0] == IGNORE and found[0, 3] == 0


def test_patches_are_drawn_evenly_from_all_images(scenes):
    part = masked(scenes[0])
    found = encoded(part)
    patches = sample_patches(found, 5, seed=0)
    assert np.bincount(patches.images).tolist() == [5] * 40
    again, other = (sample_patches(found, 5, seed=s) for s in (0, 1))
    np.testing.assert_array_equal(patches.tokens, again.tokens)
    assert (patches.tokens != other.tokens).any()
    assert len(sample_patches(found, 10**6, seed=0).classes) == 40 * 64
    # Not by the other images of a batch, which differ between data sets of bad images.
    few = part._replace(samples=part.samples[[3, 20]])
    alone = sample_patches(encoded(few), 5, seed=0)
    assert_same(alone, [of[np.isin(patches.images, [3, 20])] for of in patches])


def assert_same(one, other):
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_of_more_images_than_patches_some_are_drawn(scenes, tmp_path):
    part = masked(scenes[0])
    drawn, again, other = (part.drawn(12, seed).samples for seed in (0, 0, 1))
    assert len(set(drawn)) == 12 and sorted(drawn) == drawn.tolist() == again.tolist()
    assert other.tolist() != drawn.tolist() and part.drawn(40, 0) is part
    said, given = [], (images_of(scenes[0]), images_of(scenes[1], "--test"))
    report = report_of(
        tmp_path,
        {"pretrained": colour_encoder()},
        (4, 4),
        *given,
        patches=30,
        log=said.append,
    )
    assert report["patches"] == report["train_images"] == 30
    assert "training patches are from 30 of 40 images, one of each" in report["notes"][-1]
    assert "encode 30 of 40 training images and 20 test images by the encoder" in said[0]


def test_colours_segment_shapes_above_chance(scenes, tmp_path):
    train, test = images_of(scenes[0]), images_of(scenes[1], "--test")
    encoders = {"pretrained": colour_encoder(), "untrained": blind_encoder()}
    report = report_of(tmp_path, encoders, (4, 4), train, test)
    floor = report["always_commonest"]
    assert floor["mean_iou"] < 0.33 and 0.6 < floor["accuracy"] < 0.95
    ours, others = report["results"][:4], report["results"][4:]
    assert [(row["classifier"], row["of"]) for row in ours] == [
        ("linear", "patches"),
        ("linear", "pixels"),
        ("k-NN", "patches"),
        ("k-NN", "pixels"),
    ]
    for row, other in zip(ours, others, strict=True):
        assert row["mean_iou"] > 0.75 and row["accuracy"] > floor["accuracy"] + 0.05
        low, high = row["mean_iou_interval"]
        assert low <= row["mean_iou"] <= high
        above = row["above"]["untrained"]
        assert above["mean_iou_difference"] == pytest.approx(row["mean_iou"] - other["mean_iou"])
        assert 0.2 < above["mean_iou_interval"][0] < above["mean_iou_difference"]
        assert "above" not in other
    assert set(report["iou_by_class"]) == {"0", "1", "2"}
    assert ours[0]["converged"] and ours[0]["strength"] in (1e-4, 1e-3, 1e-2, 1e-1, 1)
    assert (report["train_images"], report["test_images"]) == (40, 20)
    shown = segmentation_table(report).splitlines()
    assert "above untrained" in shown[0] and shown[2].startswith("pretrained linear, pixels")
    json.dumps(report)


def test_noise_tokens_score_as_the_commonest_class(scenes, tmp_path):
    """Noise for tokens: nothing about masks may leak in."""
    train, test = images_of(scenes[0]), images_of(scenes[1], "--test")
    report = report_of(tmp_path, {"pretrained": blind_encoder()}, (4, 4), train, test)
    for row in report["results"]:
        assert row["mean_iou"] < report["always_commonest"]["mean_iou"] + 0.03


def test_pixels_use_scores_interpolated_between_patches(scenes):
    found = encoded(masked(scenes[1]))
    assert found.pixels.shape == (20, SIZE, SIZE) and found.patches.shape == (20, 64)

    def score(tokens):
        return torch.stack([tokens[:, 1], tokens[:, 0], tokens[:, 2]], 1)

    counts = count_predictions(found, {"x": score}, (SIZE, SIZE), (4, 4), 3)
    scores = score(found.tokens[3]).T.reshape(1, 3, 8, 8)
    up = torch.nn.Upsample((SIZE, SIZE), mode="bilinear")(scores)[0].argmax(0)
    right = (up == found.pixels[3]).sum()
    assert counts["x", "pixels"][3][:, 0].sum() == right
    assert counts["x", "patches"].shape == (20, 3, 3)


def test_a_gap_in_the_class_numbers_changes_nothing(tmp_path, make_scenes):
    """Classes 0 and 2 give what classes 0 and 1 give, also at the borders of the image."""
    reports = []
    for other in (1, 2):
        train, test = (
            make_scenes(
                tmp_path / f"{first}-{other}", range(first, last), classes=(0, other, other)
            )
            for first, last in ((0, 40), (100, 120))
        )
        given = images_of(train), images_of(test, "--test")
        encoder = {"pretrained": colour_encoder()}
        reports.append(report_of(tmp_path, encoder, (4, 4), *given))
    plain, gap = reports
    assert plain["classes"] == [0, 1] and gap["classes"] == [0, 2]
    assert plain["results"] == gap["results"] and plain["results"][1]["mean_iou"] > 0.7
    assert plain["always_commonest"] == gap["always_commonest"]
    assert [*plain["iou_by_class"].values()] == [*gap["iou_by_class"].values()]


def test_class_without_training_patch_is_never_predicted():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 2], 200)
    tokens = (rng.standard_normal((200, 4)) + labels[:, None]).astype(np.float32)
    found = Dense(
        torch.from_numpy(tokens[:64])[None],
        torch.zeros(1, 64, dtype=torch.int64),
        torch.zeros(1, SIZE, SIZE, dtype=torch.int64),
        [0],
    )
    linear = fit_linear(tokens, labels, 4, 0.1)
    counts = count_predictions(found, {"linear": linear.scores}, (SIZE, SIZE), (4, 4), 4)
    for predicted in counts.values():
        assert predicted[0, [1, 3], 1].tolist() == [0, 0] and predicted[0, 2, 1] > 0


def test_masks_without_usable_classes_are_refused(tmp_path, make_tar, scenes):
    def one_class(name, *classes):
        pixels = scene(0)[0]
        members = []
        for i, of in enumerate(classes):
            mask = np.full((SIZE, SIZE), of, np.uint8)
            members += [(f"{i}.png", png(pixels)), (f"{i}.mask.png", png(mask))]
        return images_of(str(make_tar(tmp_path / name, members)))

    train, few = images_of(scenes[0]), one_class("few.tar", 0, 1)
    encoder = {"pretrained": colour_encoder()}
    with pytest.raises(UserError, match="--test: class 9 of the masks does not occur in --train"):
        report_of(tmp_path, encoder, (4, 4), train, one_class("9.tar", 9))
    with pytest.raises(UserError, match="masks of 1 class; the probe needs two classes"):
        same = one_class("1.tar", 4, 4)
        report_of(tmp_path, encoder, (4, 4), same, same)
    with pytest.raises(UserError, match="--train: 2 images with classes; a tenth must choose"):
        report_of(tmp_path, encoder, (4, 4), few, few)
    lone = np.arange(10).repeat(2), (np.arange(20) == 3).astype(np.int64)
    for seed in range(20):
        try:
            choose_linear(np.ones((20, 2), np.float32), lone[1], lone[0], 2, seed)
        except UserError as error:
            assert "nearly all patches are of one class" in str(error)
            break
    else:
        pytest.fail("the only patch of its class was never held out")


def test_bad_images_and_masks_are_skipped_and_counted(tmp_path, make_scenes):
    pattern = make_scenes(tmp_path / "train", range(40))
    spoil(tmp_path / "train", "0005")  # the image and its mask
    test = make_scenes(tmp_path / "test", range(100, 110))
    encoder = {"pretrained": colour_encoder()}
    given = encoder, (4, 4), images_of(pattern), images_of(test, "--test")
    report = report_of(tmp_path, *given, max_bad=1)
    assert report["train_images"] == 39 and report["test_images"] == 10
    assert "key 0005" in report["train"]["skipped"][0]
    with pytest.raises(UserError, match=r"key 0005: .*more than data.max_bad = 0"):
        report_of(tmp_path, *given, max_bad=0)


def test_no_readable_image_with_a_mask_is_an_error(tmp_path, make_scenes, make_tar):
    """Others, without a mask, do not make up for them."""
    train = images_of(make_scenes(tmp_path / "train", range(20)))
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[: SIZE // 2] = 1
    picture = png(np.zeros((SIZE, SIZE, 3), np.uint8))
    members = [("a.png", picture[:-30]), ("a.mask.png", png(mask)), ("b.png", picture)]
    test = images_of(str(make_tar(tmp_path / "test.tar", members)), "--test")
    given = {"pretrained": colour_encoder()}, (4, 4), train, test
    with pytest.raises(UserError, match=r"key a: .*none of 1 images is readable"):
        report_of(tmp_path, *given, max_bad=9, unmasked="skip")


def test_segment_command(tmp_path, scenes, make_shards, capsys):
    run = tiny_run(tmp_path / "run")
    words = ["segment", str(run), "--train", scenes[0], "--test", scenes[1], "--device", "cpu"]
    assert main([*words, "--patches", "400", "--baselines"]) == 0
    shown = capsys.readouterr().out
    assert "above untrained" in shown and "above raw" in shown
    report = json.loads((run / "segment.json").read_text())
    assert report["patches"] == 400 and report["classes"] == [0, 1, 2] and report["step"] == 3
    assert report["train_images"] == 40 and report["encoder"]["img_size"] == "16x16"
    assert report["test_images_in_train"] == 0 and len(report["results"]) == 12
    bare = make_shards(tmp_path / "bare", 3)
    assert main([*words[:5], bare, "--train", scenes[0]]) == 2
    assert "--test: 3 of 3 images have no mask (.mask.png, .seg.png)" in capsys.readouterr().err
