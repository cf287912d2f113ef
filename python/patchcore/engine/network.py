"""The network of a run, from its plan and configuration."""

from __future__ import annotations

from torch import nn

from patchcore.config.plan import TargetPlan
from patchcore.config.run import ModelConfig
from patchcore.models import UNETR

__all__ = ["build_network", "freeze_encoder"]


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
