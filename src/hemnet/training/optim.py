"""The optimizer, its parameter groups and the learning-rate schedule."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from hemnet.errors import HemnetError

# Modules whose weights have weight decay. torch has no public base class of its convolutions.
DECAYED = (nn.Linear, nn.modules.conv._ConvNd)


def poly(step: int, total_steps: int, power: float, warmup_steps: int) -> float:
    """Return the learning rate's factor: (1 - step / total_steps)^power, in the warm-up times a rise from 0.

    The rise is linear, and multiplies the decay instead of replacing it, so that the factor does not jump at
    its end.
    """
    rise = min(1.0, (step + 1) / (warmup_steps + 1))
    return rise * (1 - min(step, total_steps) / max(total_steps, 1)) ** power


@dataclass(frozen=True)
class Optimization:
    """How a segmenter is optimised.

    Attributes:
        optimizer: makes a torch optimizer from parameter groups, such as a partial of ``torch.optim.SGD``.
            Its learning rate is for the backbone, and its weight decay for the weights of convolutions.
        head_lr_multiple: the learning rate of the heads, as a multiple of the backbone's.
        power: the exponent of the schedule `poly`, >= 0; 0 keeps the rate constant.
        warmup_fraction: the share of all steps in which the learning rate rises linearly, in [0, 1].

    Raises:
        ValueError: a number is outside its range.
    """

    optimizer: Callable[[Iterable[dict[str, Any]]], torch.optim.Optimizer]
    head_lr_multiple: float = 1.0
    power: float = 0.9
    warmup_fraction: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.power < math.inf or not 0 <= self.warmup_fraction <= 1:
            raise ValueError(
                f"power is {self.power} and warmup_fraction {self.warmup_fraction}; give 0 or more, and a "
                "share from 0 to 1"
            )

    def build(self, network: nn.Module, total_steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """Return the optimizer of ``network`` and its schedule, to be advanced at each optimizer step.

        Raises:
            HemnetError: the optimizer refuses its options or these parameters.
        """
        try:
            optimizer = self.optimizer(parameter_groups(network))
        except (ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise HemnetError(
                f"optim.optimizer: {' '.join(str(error).split())}: change its options"
            ) from error
        for group in optimizer.param_groups:
            if group["name"].startswith("head"):
                group["lr"] *= self.head_lr_multiple
        warmup_steps = round(self.warmup_fraction * total_steps)
        schedule = LambdaLR(optimizer, lambda step: poly(step, total_steps, self.power, warmup_steps))
        return optimizer, schedule


def parameter_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Return up to four groups: ``network.backbone`` and the heads, each with and without weight decay.

    Only the weights of convolutions and linear maps have weight decay. Normalisation layers and biases have
    none, nor do the initial means of an EM layer: they are points in feature space, and decay would move them
    to the origin. Frozen parameters are left out.
    """
    groups: dict[tuple[str, bool], list[Tensor]] = {}
    for name, module in network.named_modules():
        role = "backbone" if name.split(".")[0] == "backbone" else "head"
        for leaf, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                decayed = leaf == "weight" and isinstance(module, DECAYED)
                groups.setdefault((role, decayed), []).append(parameter)
    return [
        {"name": role if decayed else f"{role} (no decay)", "params": parameters}
        | ({} if decayed else {"weight_decay": 0.0})
        for (role, decayed), parameters in groups.items()
    ]
