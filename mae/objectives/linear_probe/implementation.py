"""The paper's linear probe: its head on the encoder that the settings name."""

from collections.abc import Mapping
from typing import Any

from mae.config.sections import Config
from mae.evaluation.encoders import open_again
from mae.evaluation.features import blank_vectors, preferred_feature
from mae.evaluation.probing import ProbeRequest
from mae.objectives.frozen import ProbeImplementation
from mae.objectives.linear_probe.declaration import model_of
from mae.objectives.linear_probe.model import LinearProbe
from mae.objectives.linear_probe.report import linear_probe


class LinearProbeImplementation(ProbeImplementation):
    """Linear probe as the MAE paper's numbers are made."""

    def build(self, config: Config) -> LinearProbe:
        """The probe that the settings describe; UserError where its encoder is gone or another."""
        model = model_of(config)
        encoder = open_again(model.encoder, model.untrained, model.sha256)
        found = blank_vectors(encoder, config.data.in_chans)
        return LinearProbe(
            encoder,
            found[preferred_feature(found)].shape[1],
            model.classes,
            group=model.group,
            seed=config.train.seed,
            labels=model.labels,
        )

    def probe(self, request: ProbeRequest) -> Mapping[str, Any]:
        """The report of `mae probe --protocol mae`."""
        return linear_probe(request)


IMPLEMENTATION = LinearProbeImplementation()
