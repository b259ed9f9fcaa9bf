"""Detector as one graph: images of any size → score, label and map of each."""

import math

from jaxtyping import Shaped
from torch import Tensor, nn

from mae.anomaly.detector import Member, image_scores
from mae.anomaly.graph_resize import positions, resize_whole
from mae.anomaly.pixel_maps import pixel_map

CLASS_NAMES = ("normal", "anomalous")


class DetectorProgram(nn.Module):
    """A member of a detector with its threshold, for tracing; its views have one size."""

    def __init__(self, member: Member, threshold: float) -> None:
        super().__init__()
        assert math.isfinite(threshold)
        self.features, self.scorer = member.features, member.scorer
        self.network = member.features.network
        self.threshold = threshold
        self.names = tuple(member.parameters)
        for number, value in enumerate(member.parameters.values()):
            self.register_buffer(f"parameter_{number}", value.detach().clone())

    @property
    def member(self) -> Member:
        """The member, with this module's parameters."""
        parameters = {name: getattr(self, f"parameter_{i}") for i, name in enumerate(self.names)}
        return Member(self.features, self.scorer, parameters)

    def forward(self, images: Shaped[Tensor, "b c H W"]) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 or uint16 images of one size → their scores, labels and maps.

        Scores [b] are float64; labels [b] bool: the score is above the threshold; maps [b H W]
        float32: scores of all pixels.
        """
        rule = self.features.rule
        maps = self.member.maps(resize_whole(images, rule.view_size))
        pixels = pixel_map(maps, rule, rule.view_size, rule.view_size, positions(images))
        score = image_scores(maps)
        return score, score > self.threshold, pixels
