"""Implementation of the attentive probe."""

from collections.abc import Mapping
from typing import Any

from mae.config.sections import Config
from mae.evaluation.encoders import TOKENS, open_again
from mae.evaluation.features import blank_vectors
from mae.evaluation.probing import ProbeRequest
from mae.objectives.attentive.declaration import model_of
from mae.objectives.attentive.model import AttentiveProbe
from mae.objectives.attentive.report import attentive
from mae.objectives.base import Objective
from mae.objectives.frozen import ProbeImplementation, given_options


class AttentiveImplementation(ProbeImplementation):
    """Implementation of the attentive probe."""

    def build(self, config: Config) -> AttentiveProbe:
        """Build the heads from the settings and load their frozen encoder.

        Raises UserError where the encoder cannot be read or has other weights than recorded.
        """
        model = model_of(config)
        encoder = open_again(model.encoder, model.untrained, model.sha256, given_options(model))
        return AttentiveProbe(
            encoder,
            width=blank_vectors(encoder, config.data.in_chans)[TOKENS].shape[2],
            classes=model.classes,
            copies=len(model.heads),
            seed=config.train.seed,
            labels=model.labels,
        )

    def parameter_groups(self, objective: Objective, config: Config) -> list[dict[str, Any]]:
        """Two groups per head with its learning rate: matrices with weight decay, and vectors."""
        assert isinstance(objective, AttentiveProbe) and config.optim.lr
        groups = []
        for head, settings in zip(objective.heads, model_of(config).heads, strict=True):
            for is_matrix in (True, False):
                groups.append(
                    {
                        "params": [p for p in head.parameters() if (p.ndim > 1) == is_matrix],
                        "weight_decay": settings.weight_decay if is_matrix else 0.0,
                        "lr_scale": settings.lr / config.optim.lr,
                    }
                )
        return groups

    def probe(self, request: ProbeRequest) -> Mapping[str, Any]:
        """Run `mae attentive`; returns its report."""
        return attentive(request)


IMPLEMENTATION = AttentiveImplementation()
