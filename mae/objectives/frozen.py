"""Frozen modules, excluded from checkpoints, and the base classes of probes on a frozen encoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from mae.config.sections import Config
from mae.data.class_names import Classes, run_classes
from mae.evaluation.encoders import TOKENS, FrozenEncoder
from mae.objectives.base import Features, Objective
from mae.objectives.implementation import Implementation
from mae.objectives.shared_sections import FrozenModel, frozen_model_of
from mae.pretrained_weights.architecture import WeightOptions


class Frozen(nn.Module):
    """Frozen module: no gradients, always in evaluation mode, not in state dicts.

    It follows `.to(device)` as any submodule.  `Implementation.build` loads its weights, also when
    a run is resumed: from another run or file, or from the run's own copy (`two_stage`).
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.requires_grad_(False)
        self.prefix = ""
        self.register_load_state_dict_post_hook(_expect_nothing)
        self.eval()

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Forward pass of `module` without gradients."""
        return self.module(*args, **kwargs)

    def train(self, mode: bool = True) -> "Frozen":
        """Keep evaluation mode."""
        return super().train(False)

    def state_dict(self, *args: Any, destination: Any = None, **kwargs: Any) -> Any:
        """Add nothing to the state dict."""
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
    """Remove the frozen tensors from the missing keys of `load_state_dict`."""
    assert isinstance(frozen, Frozen)
    missing = incompatible.missing_keys
    missing[:] = [name for name in missing if not name.startswith(f"{frozen.prefix}module.")]


class Probe(Objective):
    """Classifier on a frozen encoder, without randomness of the inputs."""

    labels: Tensor

    def __init__(self, encoder: FrozenEncoder, classes: int, labels: Sequence[int]) -> None:
        """Freeze `encoder`; `labels` of the classes, ascending (none: class i has label i)."""
        super().__init__()
        assert isinstance(encoder.encode, nn.Module)
        self.frozen = Frozen(encoder.encode)
        self.img_size = encoder.img_size
        self.register_buffer("labels", torch.tensor(labels or range(classes)), persistent=False)

    def draw(
        self,
        images: Shaped[Tensor, "b ..."],
        seeds: Int[Tensor, " b"],
        labels: Int[Tensor, " b"] | None = None,
    ) -> Int[Tensor, " b"]:
        """Class numbers of `labels`."""
        assert labels is not None
        return torch.searchsorted(self.labels, labels)

    def encode(self, images: Shaped[Tensor, "b c h w"]) -> Features:
        """Compute features of the frozen encoder."""
        vectors: dict[str, Float[Tensor, "b ..."]] = dict(self.frozen(images))
        tokens = vectors.pop(TOKENS, None)
        return Features(vectors, tokens)

    def encoder_module(self) -> nn.Module:
        """Frozen encoder."""
        return self.frozen.module


def given_options(model: FrozenModel) -> WeightOptions:
    """Options that the weights of a probe's encoder were opened with."""
    return WeightOptions(num_heads=model.num_heads or None, mean=model.mean, std=model.std)


class ProbeImplementation(Implementation):
    """Base class of the implementations of probes."""

    def classes(self, config: Config, run: Path) -> Classes | None:
        """Classes in the order of the logits.

        None where class i does not have label i and the classes have no names.
        """
        model = frozen_model_of(config)
        labels = model.labels or range(model.classes)
        known = run_classes(config.data.train, labels[-1] + 1, run)
        if model.labels and not known.names:
            return None
        names = known.shown() if known.names else ()
        return Classes(len(labels), tuple(names[label] for label in labels) if names else ())
