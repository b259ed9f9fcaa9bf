import numpy as np
import pytest
import torch
from PIL import Image

from mae.networks.patches import patchify, unpatchify
from mae.objectives.mae.chosen_masks import choose_masks
from mae.objectives.mae.masking import binary_mask
from mae.objectives.mae.pictures import (
    COLUMNS,
    COLUMNS_OF_SEVERAL,
    SPREAD,
    reconstruct_images,
    reconstruction_sheet,
)
from mae.objectives.mae.reconstruction import explained_variance
from mae.pictures.drawing import HIDDEN
from tests.objectives.losses import loss_of
from tests.objectives.mae.test_model import small_mae, some_images


def on_pixels(mask: torch.Tensor, channels: int) -> torch.Tensor:
    return unpatchify(mask[:, :, None].expand(-1, -1, 16 * channels), (16, 16), (4, 4))


@pytest.mark.parametrize("norm_pix_loss", [True, False])
@pytest.mark.parametrize("pattern", ["random", "block", "grid"])
def test_values_equal_the_evaluation_per_image(norm_pix_loss, pattern):
    model = small_mae(norm_pix_loss=norm_pix_loss).eval()
    images, seeds = some_images(), torch.arange(4)
    [mask] = choose_masks(pattern, [], model)
    found = reconstruct_images(model, images, mask.draw(images, seeds))
    for i in range(4):
        pair = [(images[i : i + 1], seeds[i : i + 1])]
        expected = explained_variance(model, pair, mask.draw).model
        assert found.r2[i].item() == pytest.approx(expected, abs=1e-5)
    assert torch.equal(found.error.isnan(), ~found.hidden)
    loss = loss_of(model, images, mask.draw(images, seeds)).item()
    assert found.error[found.hidden].mean().item() == pytest.approx(loss, rel=1e-5)


def test_visible_patches_are_pasted_and_blank_in_raw():
    model = small_mae().eval()
    images = some_images()
    split = model.draw(images, torch.arange(4))
    found = reconstruct_images(model, images, split)
    hidden = on_pixels(binary_mask(split), 3).bool()
    original = images / 255
    torch.testing.assert_close(found.original, original)
    torch.testing.assert_close(found.reconstruction[~hidden], original[~hidden])
    colour = found.masked.new_tensor(HIDDEN).view(1, 3, 1, 1).expand_as(found.masked)
    assert torch.equal(found.masked[hidden], colour[hidden])
    assert (found.raw[~hidden] == 0).all()


def test_raw_shows_normalised_units_around_grey():
    model = small_mae().eval()
    with torch.no_grad():
        model.decoder.pred.weight.zero_()
        model.decoder.pred.bias.fill_(SPREAD / 2)
    images = some_images()
    split = model.draw(images, torch.arange(4))
    hidden = on_pixels(binary_mask(split), 3).bool()
    assert (reconstruct_images(model, images, split).raw[hidden] == 0.75).all()
    plain = small_mae(norm_pix_loss=False).eval()
    found = reconstruct_images(plain, images, split)
    assert torch.equal(found.raw[hidden], found.reconstruction[hidden])


def test_a_sheet_has_its_columns_and_values():
    model = small_mae().eval()
    images, seeds, names = some_images(), torch.arange(4), list("abcd")
    masks = choose_masks("random", [], model)
    sheet = reconstruction_sheet(model, images, names, seeds, masks, COLUMNS, "title")
    assert tuple(sheet.heads) == COLUMNS and len(sheet.rows) == 4
    found = reconstruct_images(model, images, masks[0].draw(images, seeds))
    for i, row in enumerate(sheet.rows):
        assert row[0].caption == names[i]
        assert row[2].caption == f"R² {found.r2[i]:.2f}"
        assert row[4].caption == f"mean {found.error[i].nanmean():.2f}"
        for cell in row[3:]:  # raw and error: blank where visible
            blank = np.asarray(cell.picture)[..., 3] == 0
            mask = on_pixels(found.hidden[i : i + 1].float(), 1)[0, 0].numpy()
            assert np.array_equal(blank, mask == 0)
    assert (
        sheet.scale is not None and "1 is the error of predicting its mean" in sheet.scale.meaning
    )
    assert any("75% of the patches are hidden (random)" in note for note in sheet.notes)


def test_several_ratios_are_side_by_side():
    model = small_mae().eval()
    masks = choose_masks("block", [0.5, 0.75], model)
    images, seeds = some_images(), torch.arange(4)
    sheet = reconstruction_sheet(model, images, list("abcd"), seeds, masks, COLUMNS_OF_SEVERAL, "")
    assert sheet.heads == [
        "original",
        "masked, 50%",
        "reconstruction, 50%",
        "masked, 75%",
        "reconstruction, 75%",
    ]
    assert all(len(row) == 5 for row in sheet.rows) and sheet.scale is None
    half, most = (np.asarray(sheet.rows[0][place].picture) for place in (1, 3))
    colour = np.round(255 * np.array(HIDDEN)).astype(np.uint8)
    shares = [(one == colour).all(-1).mean() for one in (half, most)]
    assert 0.2 < shares[0] < shares[1]


@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (7, 8), (1, 16), (3, 16)])
def test_any_number_of_channels_and_deep_images(channels, bits):
    model = small_mae(img_size=(8, 16), in_chans=channels, bits=bits).eval()
    images = some_images(b=2, c=channels, h=8, w=16)
    if bits == 16:
        images = (images.int() + 1000).to(torch.uint16)  # a small part of the range
    masks = choose_masks("random", [], model)
    sheet = reconstruction_sheet(model, images, ["a", "b"], torch.arange(2), masks, COLUMNS, "")
    original = np.asarray(sheet.rows[0][0].picture)
    assert original.shape == (8, 16, 3)
    assert original.min() < 20 and original.max() > 235
    assert patchify(images.int(), (4, 4)).shape[1] == 8
    assert all(isinstance(cell.picture, Image.Image) for row in sheet.rows for cell in row)
