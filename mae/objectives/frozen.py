"""Frozen modules, which stay out of checkpoints, and the objectives that learn on top of one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from mae.config.sections import Config
from mae.data.class_names import class_names
from mae.evaluation.encoders import TOKENS, FrozenEncoder
from mae.objectives.base import Features, Implementation, Objective
from mae.objectives.sections import frozen_model_of


class Frozen(nn.Module):
    """`module` without gradients, always in evaluation mode, and absent from state dicts.

    It follows `.to(device)` as any part.  Its weights belong to another run or file: whoever builds
    the objective loads them there, also for a resume.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.requires_grad_(False)
        self.prefix = ""
        self.register_load_state_dict_post_hook(_expect_nothing)
        self.eval()

    @torch.no_grad()
    def forward(self, *given: Any, **named: Any) -> Any:
        """The module's own."""
        return self.module(*given, **named)

    def train(self, mode: bool = True) -> "Frozen":
        """Stay in evaluation mode."""
        return super().train(False)

    def state_dict(self, *args: Any, destination: Any = None, **kwargs: Any) -> Any:
        """Nothing."""
        return {} if destination is None else destination

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: Any,
        local_metadata: Any,
        strict: Any,
        missing_keys: Any,
        unexpected_keys: Any,
        error_msgs: Any,
    ) -> None:
        self.prefix = prefix


def _expect_nothing(frozen: nn.Module, incompatible: Any) -> None:
    """No tensor of the frozen part is missing from a state dict."""
    assert isinstance(frozen, Frozen)
    missing = incompatible.missing_keys
    missing[:] = [name for name in missing if not name.startswith(f"{frozen.prefix}module.")]


class Probe(Objective):
    """A classifier on a frozen encoder; nothing about its inputs is random."""

    labels: Tensor

    def __init__(self, encoder: FrozenEncoder, classes: int, labels: Sequence[int]) -> None:
        """`labels`: of each class, ascending, where these are not 0, 1 and so on."""
        super().__init__()
        assert isinstance(encoder.encode, nn.Module)
        self.frozen = Frozen(encoder.encode)
        self.img_size = encoder.img_size
        known = torch.tensor(labels or range(classes))
        self.register_buffer("labels", known, persistent=False)

    def draw(
        self,
        images: Shaped[Tensor, "b ..."],
        seeds: Int[Tensor, " b"],
        labels: Int[Tensor, " b"] | None = None,
    ) -> Int[Tensor, " b"]:
        """The numbers of the classes."""
        assert labels is not None
        return torch.searchsorted(self.labels, labels)

    def encode(self, images: Shaped[Tensor, "b c h w"]) -> Features:
        """Features of the frozen encoder."""
        vectors: dict[str, Float[Tensor, "b ..."]] = dict(self.frozen(images))
        tokens = vectors.pop(TOKENS, None)
        return Features(vectors, tokens)

    def encoding_part(self) -> nn.Module:
        """The frozen encoder."""
        return self.frozen.module


class ProbeImplementation(Implementation):
    """Implementation of a probe."""

    def class_names(self, config: Config, run: Path) -> Sequence[str]:
        """Names of the classes; none where labels leave numbers out."""
        model = frozen_model_of(config)
        return () if model.labels else class_names(config.data.train, model.classes, run)
