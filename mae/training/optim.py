"""Optimizers by name: torch's AdamW, and those of timm whose runs resume bit for bit."""

import inspect

import timm.optim
import torch
from torch import nn

from mae.config.sections import OptimConfig
from mae.networks.parameter_groups import is_decayed

COUNTS_SKIPPED = frozenset("adabelief adan adanw lamb lambc lambcw lambw radabelief".split())
"""optimizers that count steps on the host: the count, which their correction of the moments' bias
follows, goes on where a step is skipped; weights and moments stay"""


def build_optimizer(groups: list[dict], config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer `config.name` of these parameter groups; `set_lr` sets its learning rate.

    Groups keep their own `weight_decay` and `lr_scale`; parameters are on their device by now.
    What `config` does not name is as timm has it, Adan's three betas too.  The momentum of those
    that have only one (SGD, LARS, RMSprop) is `config.betas[0]`.
    """
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=True)
    known = timm.optim.get_optimizer_info(config.name)
    options: dict = {"eps": config.eps}
    if known.num_betas == 2:  # Adan has three: its own
        options["betas"] = config.betas
    accepted = inspect.signature(timm.optim.get_optimizer_class(config.name)).parameters
    if config.name == "adam":
        options["fused"] = True
    elif "capturable" in accepted and _is_on_gpu(groups):
        options["capturable"] = True  # counts steps on the device, where a step can be taken back
    if "trust_coeff" in accepted:
        groups = [{**group, "always_adapt": _adapts(group)} for group in groups]
        options["eps"] = 0.0  # zero lengths are seen to; any other would only blur the ratio
    return timm.optim.create_optimizer_v2(
        groups,
        config.name,
        lr=0.0,
        momentum=config.betas[0],
        filter_bias_and_bn=False,
        **options,
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of all groups; some take a share of it, their `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def num_moments(config: OptimConfig) -> int:
    """Tensors of a parameter's size that the optimizer keeps for it."""
    parameter = nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.zeros_like(parameter)
    optimizer = build_optimizer([{"params": [parameter], "weight_decay": 0.0}], config)
    optimizer.step()
    kept = optimizer.state[parameter].values()
    return sum(isinstance(one, torch.Tensor) and one.shape == parameter.shape for one in kept)


def _is_on_gpu(groups: list[dict]) -> bool:
    return any(parameter.is_cuda for group in groups for parameter in group["params"])


def _adapts(group: dict) -> bool:
    """LARS scales whole groups: those of matrices.

    Vectors (biases, norms) and tokens are scaled no more than they are decayed.
    """
    return all(is_decayed(parameter) for parameter in group["params"])
