"""Parts of adversarial losses: gradients past a frozen critic, and spectral normalisation.

A critic and what it criticises are trained by one optimizer in one backward pass: the critic's loss
is of detached inputs, the generator's goes through the critic's detached weights (`frozen_call`).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from mae.objectives.base import StepEnd, full_precision

FIRST_ITERATIONS = 15
"""power iterations on the initial weights, after which there is one per optimizer step"""

EPS = 1e-12
"""smallest length that a vector is divided by"""


def frozen_call(module: nn.Module, *inputs: Tensor) -> Tensor:
    """`module(*inputs)` with detached weights: the gradient reaches the inputs alone.

    `module` must not recompute activations in the backward pass, where its weights are back.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    detached = {name: tensor.detach() for name, tensor in tensors.items()}
    return functional_call(module, detached, inputs)


class SpectralNorm(nn.Module):
    """Linear layer or convolution with a weight of spectral norm 1 (Miyato et al. 2018, section 2).

    The norm is that of the weight as a matrix [outputs, everything else], estimated by a power
    iteration, one per optimizer step (`update_spectral_norms`): `forward` is a pure function.
    """

    left: Tensor
    """estimate of the first left singular vector"""
    right: Tensor
    """estimate of the first right singular vector"""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer
        matrix = self.matrix().detach()
        self.register_buffer("left", F.normalize(torch.randn_like(matrix[:, 0]), dim=0))
        self.register_buffer("right", F.normalize(torch.randn_like(matrix[0]), dim=0))
        for _ in range(FIRST_ITERATIONS):
            self.left, self.right = power_iteration(matrix, self.right)

    def matrix(self) -> Float[Tensor, "m n"]:
        """Weight as a matrix."""
        return self.layer.weight.flatten(1)

    def norm(self) -> Float[Tensor, ""]:
        """Estimate of the largest singular value, with a gradient to the weight."""
        return self.left @ self.matrix() @ self.right

    def forward(self, inputs: Tensor) -> Tensor:
        """Output of the layer with the normalised weight."""
        with full_precision(inputs.device):
            weight = self.layer.weight / self.norm()
        return functional_call(self.layer, {"weight": weight}, (inputs,))

    @torch.no_grad()
    def update(self, skipped: Tensor) -> None:
        """Do one power iteration on the current weight; none where the step was `skipped`."""
        left, right = power_iteration(self.matrix(), self.right)
        self.left.copy_(torch.where(skipped, self.left, left))
        self.right.copy_(torch.where(skipped, self.right, right))


def power_iteration(
    matrix: Float[Tensor, "m n"], right: Float[Tensor, " n"]
) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
    """Left and right singular vector after one iteration from `right`."""
    left = F.normalize(matrix @ right, dim=0, eps=EPS)
    return left, F.normalize(matrix.T @ left, dim=0, eps=EPS)


def update_spectral_norms(module: nn.Module, step: StepEnd) -> None:
    """Update every `SpectralNorm` in `module` after an optimizer step."""
    for part in module.modules():
        if isinstance(part, SpectralNorm):
            part.update(step.skipped)
