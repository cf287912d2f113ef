"""The network of a run, from its plan and configuration."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from patchcore.config.plan import TargetPlan
from patchcore.config.run import ModelConfig, TrainConfig
from patchcore.engine.device import Placement
from patchcore.models import UNETR

__all__ = ["build_network", "compiled", "freeze_encoder"]


def compiled(
    network: nn.Module,
    config: TrainConfig,
    target: TargetPlan,
    placement: Placement,
    tell: Callable[[str], None],
) -> Callable[[Tensor], Tensor]:
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
        fast: Callable[[Tensor], Tensor] = torch.compile(
            network, mode="reduce-overhead" if config.compile == "graphs" else "default"
        )
        image = torch.zeros((config.batch_size, 1, *target.window_size), device=placement.device)
        for _ in range(2):
            with placement.precision():
                logits = fast(image)
            logits.float().square().mean().backward()  # type: ignore[no-untyped-call]
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
        if name.startswith("vit."):
            parameter.grad = None


def build_network(target: TargetPlan, config: ModelConfig) -> UNETR:
    """Return a new UNETR with the plan's patch, window and classes; its weights come from torch's generator.

    Raises:
        PatchSizeError: The plan's patch size has no UNETR; the message names the nearest that have.
    """
    return UNETR(
        1,
        len(target.classes) + 1,
        target.window_size,
        target.patch_size,
        hidden_size=config.hidden_size,
        mlp_dim=config.mlp_dim,
        num_heads=config.num_heads,
        feature_size=config.feature_size,
        dropout=config.dropout,
    )
