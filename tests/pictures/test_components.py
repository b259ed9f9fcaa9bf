import numpy as np
import pytest
import torch

from mae.base.errors import UserError
from mae.pictures.components import (
    border_mask,
    components_sheet,
    principal_components,
    without_position_mean,
)

GRID = (6, 5)


def tokens(b=3, d=8, seed=0) -> torch.Tensor:
    """A bright object in the middle of each image, and noise."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(b, 30, d, generator=generator) * torch.linspace(0.3, 0.05, d)
    values[:, ~border_mask(GRID), 0] += 4
    return values


def test_components_equal_a_singular_value_decomposition():
    given = tokens()
    found = principal_components(given, GRID)
    flat = given.reshape(90, 8).double().numpy()
    left, singular, _ = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    for i in range(3):
        scores = left[:, i] * singular[i]
        middle = ~border_mask(GRID).repeat(3).numpy()
        scores *= np.sign(scores[middle].mean() - scores[~middle].mean())
        low, high = np.quantile(scores, [0.01, 0.99])
        expected = np.clip((scores - low) / (high - low), 0, 1).reshape(3, 30)
        np.testing.assert_allclose(found.values[..., i].numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(found.explained, (singular**2 / (singular**2).sum())[:3])
    assert found.is_shown.all()


def test_mirrored_features_give_the_same_colours():
    given = tokens()
    turn, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))
    for other in (-given, given + 7, given @ turn):
        torch.testing.assert_close(
            principal_components(other, GRID).values,
            principal_components(given, GRID).values,
            atol=1e-4,
            rtol=0,
        )


def test_foreground_is_central_and_fitted_alone():
    given = tokens()
    found = principal_components(given, GRID, foreground=0.5)
    assert torch.equal(found.is_shown, ~border_mask(GRID).expand(3, -1))
    rest = given[:, ~border_mask(GRID)]
    alone = principal_components(rest, (4, 3))
    np.testing.assert_allclose(found.explained, alone.explained, rtol=1e-6)


def test_few_dimensions_and_no_variance_are_handled():
    narrow = principal_components(tokens(d=2), GRID)
    assert narrow.values.shape == (3, 30, 3) and (narrow.values[..., 2] == 0).all()
    flat = principal_components(torch.ones(1, 30, 4), GRID)
    assert flat.values.isfinite().all() and flat.explained == [0.0] * 3
    with pytest.raises(UserError, match=r"--foreground: 0\.5 leaves 1 patches"):
        lonely = torch.zeros(1, 30, 4)
        lonely[0, 12] = 1
        principal_components(lonely, GRID, 0.5)


def test_the_sheet_leaves_the_background_blank():
    images = torch.randint(0, 256, (3, 3, 12, 10), dtype=torch.uint8)
    found = principal_components(tokens(), GRID, foreground=0.5)
    sheet = components_sheet(images, list("abc"), found, GRID, "title")
    assert len(sheet.rows) == 3 and len(sheet.rows[0]) == 5
    colours = np.asarray(sheet.rows[1][1].picture)
    assert colours.shape == (12, 10, 4)
    shown = found.is_shown[1].view(GRID).repeat_interleave(2, 0).repeat_interleave(2, 1).numpy()
    assert np.array_equal(colours[..., 3] == 255, shown)
    expected = (found.values[1].view(*GRID, 3) * 255).round().numpy()
    assert np.array_equal(colours[::2, ::2, :3][shown[::2, ::2]], expected[shown[::2, ::2]])
    assert any("40% of the patches are foreground" in note for note in sheet.notes)


def test_note_on_positions_depends_on_removal():
    images = torch.randint(0, 256, (3, 3, 12, 10), dtype=torch.uint8)
    found = principal_components(tokens(), GRID)
    for has_places in (True, False):
        sheet = components_sheet(images, list("abc"), found, GRID, "title", has_places=has_places)
        notes = " ".join(sheet.notes)
        assert ("(--contents removes them)" in notes) is has_places
        assert ("is taken off (--contents)" in notes) is not has_places


def test_position_mean_can_be_removed():
    """Tokens encode their position, and one patch per image differs."""
    places, contents = torch.randn(1, 20, 8) * 10, torch.zeros(6, 20, 8)
    for image in range(6):
        contents[image, image + 7, 3] = 1.0
    found = principal_components(without_position_mean(places + contents), (4, 5))
    first = found.values[..., 0]
    assert (first.argmax(dim=1) == torch.arange(6) + 7).all()
    with pytest.raises(UserError, match="--contents: needs at least two images"):
        without_position_mean(places)
