"""How much memory a training step takes, found without taking it: the network runs on tensors that have no storage."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from patchcore.config.run import ModelConfig
from patchcore.models.registry import make_network
from patchcore.types import IntTriple, Triple

__all__ = ["Footprint", "footprint"]


@dataclass(frozen=True)
class Footprint:
    """Memory of a training step.

    Attributes:
        parameters: Weights, frozen ones included.
        weight_bytes: Weights, their gradients and AdamW's two moments, float32.
        activation_bytes: What is kept from the forward pass for the backward pass, of one window.
    """

    parameters: int
    weight_bytes: int
    activation_bytes: int

    def step_bytes(self, windows: int) -> int:
        """Return the memory of a step of so many windows at a time; working space of kernels comes on top."""
        return self.weight_bytes + windows * self.activation_bytes


def footprint(
    config: ModelConfig,
    *,
    out_channels: int,
    window_size: IntTriple,
    patch_size: IntTriple,
    spacing: Triple,
    bf16: bool = False,
) -> Footprint:
    """Find the memory of a training step of a network.

    What autograd keeps is counted, each storage once. Weights are left out of it, and so is the window itself.

    Args:
        config: The network.
        out_channels: Classes, background included.
        window_size: Voxels per axis.
        patch_size: The plan's.
        spacing: mm per voxel.
        bf16: Whether autocast to bfloat16 is on.

    Raises:
        PatchSizeError: The patch size or window cannot be had with that network.
        ConfigError: There is no such network.

    Example:
        >>> sizes = dict(out_channels=2, window_size=(48,) * 3, patch_size=(16,) * 3, spacing=(1.0,) * 3)
        >>> tiny = ModelConfig(hidden_size=48, mlp_dim=96, num_heads=4, feature_size=4)
        >>> saving = tiny.model_copy(update={"checkpointing": True})
        >>> footprint(saving, **sizes).activation_bytes < 0.5 * footprint(tiny, **sizes).activation_bytes
        True
    """

    def build() -> nn.Module:
        return make_network(
            config, out_channels=out_channels, window_size=window_size, patch_size=patch_size, spacing=spacing
        ).train()

    generator = torch.get_rng_state()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            try:
                network = build()
            except DataDependentOutputException:
                # One that reads numbers off tensors while it is built needs real weights; those are not the much.
                network = None
        if network is None:
            network = build()
        with mode:
            kept = _kept_bytes(network, torch.empty((1, 1, *window_size)), bf16=bf16)
    finally:
        torch.set_rng_state(generator)
    weights = list(network.parameters())
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    count = sum(weight.numel() for weight in weights)
    return Footprint(count, 4 * count + 12 * trained, kept)


def _kept_bytes(network: nn.Module, image: Tensor, *, bf16: bool) -> int:
    ours = {weight.untyped_storage()._cdata for weight in network.parameters()} | {image.untyped_storage()._cdata}
    storages: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in ours:
            # The tensor is held, so that its storage's address stays its own.
            storages[storage._cdata] = (storage.nbytes(), tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
    ):
        network(image)
    return sum(size for size, _ in storages.values())
