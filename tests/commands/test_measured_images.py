"""Images that figures are computed on, in parts, against the same images in memory."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mae.base.divided_work import divided_work
from mae.base.errors import UserError
from mae.base.portion import ALONE
from mae.commands import measured_images
from mae.commands.measured_images import DividedImages, noise_seeds
from mae.commands.numbered_images import load_images, open_numbered
from mae.pictures.reconstruction import measure
from tests.evaluation.frozen import CONFIG, tiny_objective
from tests.evaluation.test_features import spoil
from tests.pictures.loaded import LoadedImages

SIZE = (16, 16)


@pytest.fixture
def divided(monkeypatch):
    """`divided(found, count, out, use)` → `use` of so many images, in small batches."""
    monkeypatch.setattr(measured_images, "BATCH", 4)

    def call(found, count, out, use):
        with divided_work(out, "", ALONE, lambda text: None) as work:
            options = {"seed": 3, "device": "cpu", "workers": 0, "log": lambda text: None}
            images = DividedImages(work, found, count, size=SIZE, **options)
            return use(images), images.bad

    return call


def test_figures_equal_those_of_images_in_memory(divided, tmp_path, make_shards):
    """Of the first 18, of which two are bad."""
    pattern, objective = make_shards(tmp_path / "shards", 24), tiny_objective()
    spoil(tmp_path / "shards", "sample-00000", "sample-00009")
    found, said = open_numbered([pattern], CONFIG, SIZE), []
    images = load_images(found, SIZE, 16, said.append)
    assert images.numbers == [n for n in range(18) if n not in (0, 9)] and len(said) == 2
    loaded = LoadedImages(images.images, noise_seeds(3, images.numbers, "cpu"))
    expected = measure(objective, loaded)
    ours, bad = divided(found, 18, tmp_path / "out", lambda given: measure(objective, given))
    assert ours[:-1] == pytest.approx(expected[:-1], rel=1e-6) and ours.images == 16
    assert len(bad) == 2 and "sample-00009" in bad[1]
    assert not list(tmp_path.glob(".*parts"))


def test_the_sum_is_exact_in_any_depth(divided, tmp_path):
    rng, paths = np.random.default_rng(0), []
    for number, one in enumerate(rng.integers(0, 256, (9, 16, 16, 3), np.uint8)):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(one).save(paths[-1])
    found = open_numbered(paths, CONFIG, SIZE)
    total, _ = divided(found, 100, tmp_path / "out", lambda images: images.total())
    assert total.images == 9 and total.sum.dtype == torch.float64
    exact = load_images(found, SIZE, 9).images.to(torch.int64).sum(dim=0).numpy()
    np.testing.assert_array_equal((255 * total.sum).round().numpy(), exact)
    np.testing.assert_allclose(total.sum.numpy(), exact / 255, rtol=1e-14)


def test_bad_images_alone_are_an_error(divided, tmp_path, make_tar):
    good = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(good, "PNG")
    members = [("a.png", b"none"), ("b.png", good.getvalue())]
    found = open_numbered([str(make_tar(tmp_path / "x.tar", members))], CONFIG, SIZE)
    with pytest.raises(UserError, match=r"key a: .*\(none of 1 measured images is usable\)"):
        divided(found, 1, tmp_path / "out", lambda images: images.each(lambda *_: np.zeros(1)))
