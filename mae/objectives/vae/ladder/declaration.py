"""Declaration of the ladder: a variational autoencoder with groups of latents, top-down."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from mae.config.sections import Config
from mae.config.types import Positive
from mae.objectives.autoencoders.declaration import held_out, reduction, shown_values
from mae.objectives.charts import Chart, Curve
from mae.objectives.declaration import Card, Kind
from mae.objectives.vae.declaration import VaeDeclaration, VaeModel
from mae.objectives.vae.ladder.groups import MOST_GROUPS, group_key

if TYPE_CHECKING:
    from mae.evaluation.diagnosis import Finding
    from mae.evaluation.run_record import RunRecord


class LadderModel(VaeModel):
    """Networks, groups of latents, prior weight and noise model of a ladder."""

    backbone: Literal["conv", "vit"] = "conv"
    """networks: conv, convolutions that halve the image in each stage; vit, a Vision Transformer
    (model.encoder) with a transformer as decoder"""
    latent: Literal["map"] = "map"
    """a grid for each group: the last has one vector for each square of 2^stages pixels (vit: for
    each patch), those before it one for each four of the next group's"""
    groups: tuple[Positive, ...] = (4, 4)
    """numbers in each vector of a group, the coarsest group first"""
    latent_dim: int = 0
    """leave at 0: model.groups has the numbers of the latents"""
    beta: Annotated[float, Field(gt=0)] = 1.0
    """weight of the KL divergence; 1 is the evidence lower bound"""
    balance: bool = True
    """while beta rises, weigh each group's KL divergence by its nats per latent, so that none is
    given up early (Vahdat and Kautz 2020, appendix A)"""


def ladder_model(config: Config) -> LadderModel:
    """Section `model:` of a run with this objective."""
    assert isinstance(config.model, LadderModel)
    return config.model


def group_curves(figure: str, source: Literal["metrics", "health"]) -> list[Curve]:
    """Curves of a figure of each group."""
    numbers = range(1, MOST_GROUPS + 1)
    return [Curve(group_key(figure, one), f"group {one}", source) for one in numbers]


class LadderDeclaration(VaeDeclaration):
    """Ladder: groups of latents, each with a prior given the coarser ones."""

    name = "ladder"
    summary = "ladder of Gaussian groups, top-down (Sønderby et al. 2016; Vahdat and Kautz 2020)"
    model = LadderModel
    loss_settings = (*VaeDeclaration.loss_settings, "model.balance")
    statistics: ClassVar[Mapping[str, Kind]] = {
        **VaeDeclaration.statistics,
        "group_nats": "sum",
        "images": "sum",
    }
    charts = (
        *VaeDeclaration.charts,
        Chart(
            "KL divergence of each group (nats per image), the coarsest first",
            group_curves("kl_nats", "metrics"),
        ),
        Chart(
            "Active latents of each group",
            group_curves("active", "health"),
            is_share=True,
        ),
    )

    def figures(
        self, losses: Mapping[str, float], statistics: Mapping[str, float | list[float]]
    ) -> dict[str, float]:
        """PSNR, KL divergence of all latents and of each group, bits per value."""
        nats, images = statistics["group_nats"], statistics["images"]
        assert isinstance(nats, list) and isinstance(images, float)
        groups = {group_key("kl_nats", i): one / images for i, one in enumerate(nats, start=1)}
        return {**super().figures(losses, statistics), **groups}

    def grids(self, config: Config) -> list[tuple[int, int]] | None:
        """Rows and columns of each group's map; None where only the built encoder knows."""
        side, size = reduction(config), config.data.img_size
        if side is None or size is None:
            return None
        count = len(ladder_model(config).groups)
        strides = [side * 2 ** (count - 1 - place) for place in range(count)]
        return [(size[0] // stride, size[1] // stride) for stride in strides]

    def validate(self, config: Config) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for settings that conflict."""
        yield from super().validate(config)
        model, side, size = ladder_model(config), reduction(config), config.data.img_size
        if model.latent_dim:
            yield "model.latent_dim", "model.groups has the numbers of the latents: leave it at 0"
        if not 2 <= len(model.groups) <= MOST_GROUPS:
            yield "model.groups", f"must name 2 to {MOST_GROUPS} groups, not {len(model.groups)}"
            return
        coarsest = 2 ** (len(model.groups) - 1)
        if side and size and any(one % side == 0 and one // side % coarsest for one in size):
            yield (
                "model.groups",
                f"{len(model.groups)} groups need sides that divide by {side * coarsest}, and "
                f"data.img_size is {size[0]} x {size[1]}: fewer groups or fewer model.stages",
            )

    def describe(self, config: Config, size: str) -> str:
        """Networks, latents of each group and size in a few words."""
        model, grids = ladder_model(config), self.grids(config)
        network = model.encoder
        if model.backbone == "conv":
            network = f"conv {model.width} x {model.stages} stages"
        if grids is None:
            return f"{self.name}, {network}, {len(model.groups)} groups of latents, {size}"
        counts = [dim * h * w for dim, (h, w) in zip(model.groups, grids, strict=True)]
        return f"{self.name}, {network}, {' + '.join(map(str, counts))} latents, {size}"

    def card(self, config: Config, is_from_scratch: bool) -> Card:
        """Objective's part of the model card."""
        model = ladder_model(config)
        found = super().card(config, is_from_scratch)
        return found._replace(
            heading="trained as a ladder of Gaussian groups",
            objective=f"evidence lower bound with beta {model.beta:g}, {len(model.groups)} groups",
            text="A variational autoencoder with groups of latents, coarse to fine, each with a "
            "prior given those before it and a posterior relative to that prior (in the manner of "
            "Sønderby et al. 2016 and Vahdat and Kautz 2020). Latents are in units of the priors: "
            "standard normal.",
            tags=("vae", "ladder"),
        )

    def results(
        self, metrics: Mapping[str, Any], health: Mapping[str, Any]
    ) -> list[tuple[str, str]]:
        """Results for the model card: those of a variational autoencoder, and of each group."""
        numbers = range(1, MOST_GROUPS + 1)
        formats = [(group_key("kl_nats", one), f"group {one}: " + "{:.1f} nats") for one in numbers]
        groups = held_out("groups", health, shown_values(health, *formats))
        return [*super().results(metrics, health), *groups]

    def diagnose(self, run: "RunRecord") -> "Iterator[Finding]":
        """Findings of a variational autoencoder, and on groups that are not used."""
        from mae.objectives.vae.ladder.diagnosis import diagnose

        found = list(super().diagnose(run))
        yield from found
        if not any(one.level == "bad" for one in found):
            yield from diagnose(run)


DECLARATION = LadderDeclaration()
