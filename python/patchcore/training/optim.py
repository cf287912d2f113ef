"""Creates the optimiser, and computes the learning rate and the moving average of the weights."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any, TypeVar

import torch
from torch import nn

from patchcore.config.run import OptimConfig

__all__ = ["WeightAverage", "learning_rate", "make_optimizer"]

_Kind = TypeVar("_Kind", bound=torch.optim.Optimizer)


# Tables of positions of UNETR and of SwinUNETR.
_POSITIONS = ("position_embeddings", "relative_position_bias")

_PROTECTED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
"""Methods of an optimiser that torch protects from its compiler."""


class WeightAverage:
    """An exponential moving average of a network's weights, stored as a separate network.

    In the first steps the decay is smaller, so that the initial weights do not dominate the average.

    Args:
        network: The network to average, on its device.
        decay: Share of the average that is kept at each step, below 1.

    Source:
        Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992; the warm-up is TensorFlow's.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay
        self._pairs = [
            (average, value)
            for average, value in zip(self.network.parameters(), network.parameters(), strict=True)
            if value.requires_grad
        ]
        self._buffers = list(zip(self.network.buffers(), network.buffers(), strict=True))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the current weights to the average; `step` is the number of steps done."""
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([average for average, _ in self._pairs], [value for _, value in self._pairs], share)
        for average, value in self._buffers:
            average.copy_(value)


def make_optimizer(network: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Return the optimiser over the parameters that need a gradient.

    Weight decay acts on matrices and convolution kernels only, not on biases, norms, position embeddings and relative
    position biases. AdamW's
    weight decay is decoupled from the gradient. SGD's is not; its default is the value of nnU-Net.

    Args:
        network: The network; frozen parameters are excluded.
        config: Type of the optimiser, learning rate, momentum and weight decay.

    Source:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019; SGD with Nesterov momentum as in
        nnU-Net.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim >= 2 and not any(part in name for part in _POSITIONS)
            (decayed if matrix else plain).append(parameter)
    decay = config.weight_decay
    if decay is None:
        # SGD's decay is not decoupled: it passes through the learning rate and the momentum sum.
        decay = 3e-5 if config.optimizer == "sgd" else 1e-2
    groups = [
        {"params": decayed, "weight_decay": decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return _quick(torch.optim.SGD)(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    return _quick(torch.optim.AdamW)(groups, lr=config.lr, fused=True)


def _quick(kind: type[_Kind]) -> type[_Kind]:
    """Return a class of optimisers with methods that torch does not protect from its compiler.

    The protection imports the whole compiler, which takes as long as the import of torch. Nothing compiles optimisers
    here, so they need no protection.
    """
    bare: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in _PROTECTED}
    bare["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), bare)


def learning_rate(step: int, total: int, config: OptimConfig) -> float:
    """Return the learning rate of step `step` (from 0): linear warm-up, then a decrease to ``lr · min_lr_share``.

    The decrease follows a cosine or a polynomial, (1 − t)^power.

    Example:
        >>> config = OptimConfig(lr=1.0, warmup_steps=10, min_lr_share=0.0)
        >>> [round(learning_rate(step, 110, config), 3) for step in (0, 9, 10, 60, 110)]
        [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    warmup = min(config.warmup_steps, total // 2)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, total - warmup))
    low = config.lr * config.min_lr_share
    fall = (1 - share) ** config.power if config.schedule == "polynomial" else 0.5 * (1 + math.cos(math.pi * share))
    return low + (config.lr - low) * fall
