"""The network of a run, from its plan and configuration."""

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
"""A network as training steps call it: windows in, logits out, of several resolutions with deep supervision."""


def compiled(
    network: nn.Module,
    config: TrainConfig,
    target: TargetPlan,
    placement: Placement,
    tell: Callable[[str], None],
) -> nn.Module:
    """Return a network as training steps call it: compiled by torch.compile where the configuration asks for it.

    Compiling is proved before anything is trained, forward and backward; where it fails, the plain network is returned
    and that is told. Weights and random generators stay as they are.

    Args:
        network: On its device, in training mode; also what validation and checkpoints use.
        config: ``compile`` and ``batch_size`` count.
        target: The plan's target, for the window.
        placement: Where to compute.
        tell: Called with a sentence where compiling fails.
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
            # A gradient of a captured graph must not be added to by the next run of it.
            network.zero_grad(set_to_none=True)
            with placement.precision():
                outputs = outputs_of(fast(image))
            torch.stack([logits.float().square().mean() for logits in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        reason = str(error).splitlines() or [""]
        tell(f"torch.compile failed ({type(error).__name__}: {reason[0][:200]}): steps are not compiled")
        return network
    finally:
        network.zero_grad(set_to_none=True)
        torch.set_rng_state(generators[0])
        for device, state in enumerate(generators[1]):
            torch.cuda.set_rng_state(state, device)
    return fast


def freeze_encoder(network: nn.Module) -> None:
    """Take the transformer's gradients away, so that the next step of the optimiser leaves it as it is."""
    for name, parameter in network.named_parameters():
        if name.startswith(ENCODERS):
            parameter.grad = None
