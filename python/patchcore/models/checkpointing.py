"""Activation checkpointing: blocks keep only their input and recompute activations in the backward pass."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from patchcore.errors import ConfigError

__all__ = ["checkpoint_activations", "checkpointed_blocks"]

# Names of the parts of each network that are recomputed. If a part is a list, each of its members is a block.
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
    """Make the blocks of a network recompute their activations during training instead of keeping them.

    Parameters, parameter names and results stay the same. Dropout draws the same numbers again.

    Args:
        network: Network built by :func:`patchcore.models.registry.make_network`.
        name: Name of the network in that registry.

    Raises:
        ConfigError: The blocks of that network are not known.
    """
    for block in checkpointed_blocks(network, name):
        _forget(block)


def checkpointed_blocks(network: nn.Module, name: str) -> list[nn.Module]:
    """Return the blocks of a network that can be recomputed.

    Raises:
        ConfigError: The blocks of that network are not known.
    """
    if name not in _PARTS:
        raise ConfigError(
            f"model.checkpointing is not available for {name}",
            remedy=f"call torch.utils.checkpoint in its forward method, or use one of {', '.join(_PARTS)}",
        )
    parts = [network.get_submodule(path) for path in _PARTS[name]]
    return [block for part in parts for block in (part if isinstance(part, nn.ModuleList) else (part,))]


def _forget(block: nn.Module) -> None:
    kind = type(block)
    if kind not in _FORGETFUL:
        _FORGETFUL[kind] = _forgetful(kind)
    block.__class__ = _FORGETFUL[kind]


def _forgetful(kind: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass that keeps only its input. A copy of an instance computes with its own weights."""

    def forward(self: nn.Module, *inputs: Any, **named: Any) -> Any:
        plain = partial(kind.forward, self)
        if torch.is_grad_enabled() and self.training:
            return checkpoint(plain, *inputs, use_reentrant=False, **named)
        return plain(*inputs, **named)

    return type(f"Checkpointed{kind.__name__}", (kind,), {"forward": forward})


_FORGETFUL: dict[type[nn.Module], type[nn.Module]] = {}
