"""Attentive probe: its heads on the encoder that the settings name."""

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
from mae.objectives.frozen import ProbeImplementation


class AttentiveImplementation(ProbeImplementation):
    """Attentive probe."""

    def build(self, config: Config) -> AttentiveProbe:
        """The heads that the settings describe; UserError where the encoder is gone or another."""
        model = model_of(config)
        encoder = open_again(model.encoder, model.untrained, model.sha256)
        return AttentiveProbe(
            encoder,
            blank_vectors(encoder, config.data.in_chans)[TOKENS].shape[2],
            model.classes,
            num_heads=len(model.heads),
            seed=config.train.seed,
            labels=model.labels,
        )

    def parameter_groups(self, objective: Objective, config: Config) -> list[dict[str, Any]]:
        """Two groups for each head, of its own learning rate: decayed matrices, and vectors."""
        assert isinstance(objective, AttentiveProbe) and config.optim.lr
        groups = []
        for head, choice in zip(objective.heads, model_of(config).heads, strict=True):
            for is_matrix in (True, False):
                groups.append(
                    {
                        "params": [p for p in head.parameters() if (p.ndim > 1) == is_matrix],
                        "weight_decay": choice.weight_decay if is_matrix else 0.0,
                        "lr_scale": choice.lr / config.optim.lr,
                    }
                )
        return groups

    def probe(self, request: ProbeRequest) -> Mapping[str, Any]:
        """The report of `mae attentive`."""
        return attentive(request)


IMPLEMENTATION = AttentiveImplementation()
