"""Implementation of the paper's linear probe."""

from collections.abc import Mapping
from typing import Any

from mae.config.sections import Config
from mae.evaluation.encoders import open_again
from mae.evaluation.features import blank_vectors, preferred_feature
from mae.evaluation.probing import ProbeRequest
from mae.objectives.frozen import ProbeImplementation, given_options
from mae.objectives.linear_probe.declaration import model_of
from mae.objectives.linear_probe.model import LinearProbe
from mae.objectives.linear_probe.report import linear_probe


class LinearProbeImplementation(ProbeImplementation):
    """Implementation of the paper's linear probe."""

    def build(self, config: Config) -> LinearProbe:
        """Build the probe from the settings and load its frozen encoder.

        Raises UserError where the encoder cannot be read or has other weights than recorded.
        """
        model = model_of(config)
        encoder = open_again(model.encoder, model.untrained, model.sha256, given_options(model))
        vectors = blank_vectors(encoder, config.data.in_chans)
        return LinearProbe(
            encoder,
            width=vectors[preferred_feature(vectors)].shape[1],
            classes=model.classes,
            group=model.group,
            seed=config.train.seed,
            labels=model.labels,
        )

    def probe(self, request: ProbeRequest) -> Mapping[str, Any]:
        """Run `mae probe --protocol mae`; returns its report."""
        return linear_probe(request)


IMPLEMENTATION = LinearProbeImplementation()
