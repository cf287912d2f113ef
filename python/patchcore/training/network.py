"""Prepares the network for training steps: optional compilation and freezing of the encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from patchcore.config.plan import TargetPlan
from patchcore.config.run import TrainConfig
from patchcore.models.device import Placement
from patchcore.models.weights import ENCODERS
from patchcore.training.loss import outputs_of

__all__ = ["Step", "compiled", "freeze_encoder"]

Step: TypeAlias = Callable[[Tensor], Tensor | Sequence[Tensor]]
"""A network as called by training steps: windows in, logits out, at several resolutions with deep supervision."""


def compiled(
    network: nn.Module,
    config: TrainConfig,
    target: TargetPlan,
    placement: Placement,
    warn: Callable[[str], None],
) -> nn.Module:
    """Return the network that training steps call: compiled by torch.compile if the configuration asks for it.

    The compiled network is tested forward and backward before training. If this fails, a warning is given and the plain
    network is returned. Weights and random generators are not changed.

    Args:
        network: The network, on its device and in training mode. Validation and checkpoints use it uncompiled.
        config: ``compile``, ``batch_size`` and ``accumulate`` are used.
        target: The plan's target, for the window size.
        placement: Where to compute.
        warn: Called with a message if compiling fails.
    """
    if config.compile == "off":
        return network
    generators = torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        mode = "reduce-overhead" if config.compile == "graphs" else "default"
        fast = cast("nn.Module", torch.compile(network, mode=mode))
        windows = config.batch_size // (placement.ranks * config.accumulate)
        image = torch.zeros((windows, 1, *target.window_size), device=placement.device)
        for _ in range(2):
            # The next run of a captured graph must not add to the gradient of the previous run.
            network.zero_grad(set_to_none=True)
            with placement.precision():
                outputs = outputs_of(fast(image))
            torch.stack([logits.float().square().mean() for logits in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        reason = str(error).splitlines() or [""]
        warn(f"torch.compile failed ({type(error).__name__}: {reason[0][:200]}): the steps run uncompiled")
        return network
    finally:
        network.zero_grad(set_to_none=True)
        torch.set_rng_state(generators[0])
        for device, state in enumerate(generators[1]):
            torch.cuda.set_rng_state(state, device)
    return fast


def freeze_encoder(network: nn.Module) -> None:
    """Remove the gradients of the transformer, so that the next optimiser step does not change it."""
    for name, parameter in network.named_parameters():
        if name.startswith(ENCODERS):
            parameter.grad = None
