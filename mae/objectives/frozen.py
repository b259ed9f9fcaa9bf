"""A module that an objective uses without training it, and keeps out of its checkpoints."""

from typing import Any

import torch
from torch import nn


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
