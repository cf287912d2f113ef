"""The optimiser, and its learning rate over the steps."""

from __future__ import annotations

import math

import torch
from torch import nn

from patchcore.config.run import OptimConfig

__all__ = ["learning_rate", "make_optimizer"]


def make_optimizer(network: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Return the optimiser over the parameters that need a gradient.

    Weight decay acts on matrices and convolution kernels alone: biases, norms and position embeddings have no scale to
    be kept small. AdamW's is decoupled from the gradient.

    Args:
        network: The network; frozen parameters stay outside.
        config: Which one, its learning rate, momentum and weight decay.

    Source:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019; SGD with Nesterov momentum as nnU-Net
        trains with it.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim >= 2 and "position_embeddings" not in name
            (decayed if matrix else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


def learning_rate(step: int, total: int, config: OptimConfig) -> float:
    """Return the learning rate of step `step` (from 0): linear warm-up, then down to ``min_lr_share`` of it.

    It falls as a cosine does, or as a polynomial, (1 − t)^power.

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
