"""Activation checkpointing: blocks keep their input alone, and compute the rest anew in the backward pass."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from patchcore.errors import ConfigError

__all__ = ["checkpoint_activations", "checkpointed_blocks"]

# Names of the parts whose insides are computed anew; of a list, each of its members.
_PARTS: dict[str, tuple[str, ...]] = {
    "unetr": ("vit.blocks", *(f"encoder{n}" for n in (1, 2, 3, 4)), *(f"decoder{n}" for n in (5, 4, 3, 2))),
    "monai-unetr": ("vit.blocks", *(f"encoder{n}" for n in (1, 2, 3, 4)), *(f"decoder{n}" for n in (5, 4, 3, 2))),
    "swin-unetr": (
        *(f"swinViT.layers{n}" for n in (1, 2, 3, 4)),
        *(f"encoder{n}" for n in (1, 2, 3, 4, 10)),
        *(f"decoder{n}" for n in (5, 4, 3, 2, 1)),
    ),
    "segresnet": ("down_layers", "up_layers"),
    "dynunet": ("input_block", "downsamples", "bottleneck", "upsamples"),
    "mednext": ("enc_stages", "bottleneck", "dec_stages"),
}


def checkpoint_activations(network: nn.Module, name: str) -> None:
    """Make the blocks of a network forget their activations while training.

    Its parameters, their names and what it computes stay the same; dropout draws the same numbers again.

    Args:
        network: As :func:`patchcore.models.registry.make_network` builds it.
        name: Its name there.

    Raises:
        ConfigError: Nothing is known of that network's blocks.
    """
    for block in checkpointed_blocks(network, name):
        _forget(block)


def checkpointed_blocks(network: nn.Module, name: str) -> list[nn.Module]:
    """Return the blocks of a network whose insides can be computed anew.

    Raises:
        ConfigError: Nothing is known of that network's blocks.
    """
    if name not in _PARTS:
        raise ConfigError(
            f"model.checkpointing is not there for {name}",
            remedy=f"call torch.utils.checkpoint in its forward, or use one of {', '.join(_PARTS)}",
        )
    parts = [network.get_submodule(path) for path in _PARTS[name]]
    return [block for part in parts for block in (part if isinstance(part, nn.ModuleList) else (part,))]


def _forget(block: nn.Module) -> None:
    kind = type(block)
    if kind not in _FORGETFUL:
        _FORGETFUL[kind] = _forgetful(kind)
    block.__class__ = _FORGETFUL[kind]


def _forgetful(kind: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass whose instances keep their input alone: a copy of one computes with its own weights."""

    def forward(self: nn.Module, *inputs: Any, **named: Any) -> Any:
        plain = partial(kind.forward, self)
        if torch.is_grad_enabled() and self.training:
            return checkpoint(plain, *inputs, use_reentrant=False, **named)
        return plain(*inputs, **named)

    return type(f"Checkpointed{kind.__name__}", (kind,), {"forward": forward})


_FORGETFUL: dict[type[nn.Module], type[nn.Module]] = {}
