"""Figures, columns and traversals of a ladder's groups."""

import pytest
import torch

from mae.base.errors import UserError
from mae.objectives.autoencoders.gaussian_prior import traversals
from mae.objectives.registry import implementation
from mae.objectives.vae.implementation import VaeImplementation
from mae.objectives.vae.ladder import implementation as ladder_implementation
from tests.objectives.autoencoders.small import DONE, build, pictures, seeds


@torch.no_grad()
def test_figures_of_the_groups_add_up_to_those_of_all_latents():
    model, own = build("ladder", groups=(2, 3)), implementation("ladder")
    assert isinstance(own, VaeImplementation)
    images = pictures()
    found = own.own_figures(model, own.own_sums(model, images, seeds()), len(images))
    assert found["latents"] == 8 + 48
    assert found["kl_nats_1"] + found["kl_nats_2"] == pytest.approx(found["kl_nats"])
    output = model(images, model.draw(images, seeds()), DONE)
    groups = output.statistics["group_nats"] / 6
    assert [found["kl_nats_1"], found["kl_nats_2"]] == pytest.approx(groups.tolist())
    active = (8 * found["active_1"] + 48 * found["active_2"]) / 56
    assert active == pytest.approx(found["active"])


@torch.no_grad()
def test_the_coarser_groups_alone_have_the_finer_ones_at_their_priors_mean():
    model, own = build("ladder", groups=(2, 3, 1)), implementation("ladder")
    assert isinstance(own, VaeImplementation)
    images = pictures()
    columns = own.further_columns(model, images)
    assert list(columns) == ["group 1 alone", "to group 2 alone"]
    kept = model.latents(images)
    kept[:, 2 + 12 :] = 0
    torch.testing.assert_close(columns["to group 2 alone"], model.decode(kept).float())


@torch.no_grad()
def test_every_group_has_its_block_of_traversals(monkeypatch):
    model, images, own = build("ladder", groups=(2, 3)), pictures(), implementation("ladder")
    assert isinstance(own, VaeImplementation)
    found = []

    def record(model, images, scores, caption):
        found.append([one.latent for one in traversals(model, images, scores)])

    monkeypatch.setattr(ladder_implementation, "traversal_block", record)
    own.blocks(model, images, seeds())
    coarse, fine = found
    assert len(coarse) == len(fine) == 5
    assert max(coarse) < 8 <= min(fine)


def test_another_size_is_refused():
    with pytest.raises(UserError, match="--img-size: a ladder's latents are those of images of"):
        implementation("ladder").after_resize(build("ladder"), (4, 4))
