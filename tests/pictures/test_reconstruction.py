import numpy as np
import pytest
import torch

from mae.base.errors import UserError
from mae.config.loading import load_config
from mae.objectives import registry
from mae.objectives.capabilities import Reconstruction
from mae.pictures import reconstruction
from mae.pictures.drawing import HIDDEN
from mae.pictures.reconstruction import ReconstructionRequest, measure, psnr, reconstruct
from mae.training.checkpoint.trained import build_objective
from tests.pictures.loaded import LoadedImages

COUNT = 70
"""more than a batch"""


@pytest.fixture
def objective(monkeypatch):
    monkeypatch.setitem(registry.OBJECTIVES, "toy", "tests.toy")
    config = load_config(None, ["data.img_size=16"], {"objective": "toy"})
    return build_objective(config).eval()


def some_images() -> LoadedImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (COUNT, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return LoadedImages(images, torch.arange(COUNT))


def asked(count=4, **options) -> ReconstructionRequest:
    images, seeds = given = some_images()
    names = [f"image {number}" for number in range(count)]
    plain = ReconstructionRequest(
        images[:count], names, seeds[:count], given, "title", "toy", None, (), ()
    )
    return plain._replace(**options)


def first_of(given: LoadedImages) -> LoadedImages:
    """The first image alone."""
    return LoadedImages(*(part[:1] for part in given))


def plain_psnr(truth: np.ndarray, guess: np.ndarray) -> float:
    """Mean over images [b …], in NumPy."""
    squared = (truth - guess) ** 2
    return float(np.mean([-10 * np.log10(one.mean()) for one in squared]))


def test_psnr_equals_a_plain_computation(objective):
    given = some_images()
    found = measure(objective, given)
    truth = given.images.double().numpy() / 255
    with torch.no_grad():
        noise = objective.draw(given.images, given.seeds)
        made = objective.reconstruct(given.images, noise).pasted.double().numpy()
    others = np.stack([np.delete(truth, i, 0).mean(0) for i in range(COUNT)])
    assert found.images == COUNT
    assert found.psnr == pytest.approx(plain_psnr(truth, made), abs=1e-4)
    assert found.psnr_mean_image == pytest.approx(plain_psnr(truth, others), abs=1e-4)
    colours = truth.mean((2, 3), keepdims=True)
    assert found.psnr_mean_pixel == pytest.approx(plain_psnr(truth, colours), abs=1e-4)
    assert measure(objective, first_of(given)).psnr_mean_image is None
    assert psnr(torch.tensor([0.0, 0.01])).tolist() == pytest.approx([100, 20])


def test_the_sheet_shows_original_reconstruction_and_error(objective):
    made = reconstruct(objective, asked())
    assert made.sheet.heads == ["original", "reconstruction", "error"]
    assert [row[0].caption for row in made.sheet.rows] == [f"image {n}" for n in range(4)]
    assert made.figures["over"] == "all pixels" and made.figures["images"] == COUNT
    one = measure(objective, first_of(some_images()))
    assert made.sheet.rows[0][1].caption == f"PSNR {one.psnr:.1f} dB"
    assert made.sheet.scale is not None
    assert made.lines[0] == f"PSNR of {COUNT} images, all pixels" and len(made.lines) == 4
    chosen = reconstruct(objective, asked(columns=["error", "original"])).sheet
    assert chosen.heads == ["error", "original"]
    assert reconstruct(objective, asked(columns=["original"])).sheet.scale is None


def test_psnr_covers_hidden_pixels_only(objective, monkeypatch):
    """The left half is hidden and filled with grey; the right one is pasted in."""

    def halves(images, noise):
        mask = torch.zeros(len(images), 3, 16, 16)
        mask[..., :8] = 1
        return Reconstruction(torch.where(mask.bool(), 0.5, images / 255), mask)

    monkeypatch.setattr(objective, "reconstruct", halves, raising=False)
    made = reconstruct(objective, asked())
    truth = some_images().images[..., :8].double().numpy() / 255
    assert made.figures["psnr"] == pytest.approx(plain_psnr(truth, np.full_like(truth, 0.5)))
    assert made.figures["over"] == "hidden pixels"
    assert made.sheet.heads == ["original", "masked", "reconstruction", "error"]
    masked = np.asarray(made.sheet.rows[0][1].picture)
    colour = [round(255 * part) for part in HIDDEN]
    assert (masked[:, :8] == colour).all() and not (masked[:, 8:] == colour).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": "grid"}, "--mask: objective toy has no masks to choose"),
        ({"mask_ratios": [0.5]}, "--mask-ratio: objective toy has no masks to choose"),
        ({"columns": ["masked"]}, "no masked here; there are original, reconstruction, error"),
    ],
)
def test_options_of_other_objectives_are_refused(options, message, objective):
    with pytest.raises(UserError, match=message):
        reconstruct(objective, asked(**options))


def test_16_bit_images_of_any_number_of_channels(monkeypatch):
    monkeypatch.setitem(registry.OBJECTIVES, "toy", "tests.toy")
    numbers = "[0.5, 0.5, 0.5, 0.5, 0.5]"
    settings = ["data.img_size=[8,12]", "data.in_chans=5", "data.bits=16"]
    settings += [f"data.mean={numbers}", f"data.std={numbers}"]
    deep = build_objective(load_config(None, settings, {"objective": "toy"})).eval()
    images = torch.randint(0, 2**16, (2, 5, 8, 12), dtype=torch.int32).to(torch.uint16)
    deep_images = LoadedImages(images, torch.arange(2))
    given = asked(2, images=images, measured=deep_images, names=["a", "b"])
    made = reconstruct(deep, given)
    assert 0 < made.figures["psnr"] < 40
    assert np.asarray(made.sheet.rows[0][0].picture).shape == (8, 12, 3)
    assert reconstruction.unit(images).max() <= 1
