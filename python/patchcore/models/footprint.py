"""Estimates the memory of a training step without allocating it: the network runs on tensors without storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from patchcore.config.run import ModelConfig, OptimConfig
from patchcore.models.checkpointing import checkpoint_activations, checkpointed_blocks
from patchcore.models.registry import make_network
from patchcore.types import IntTriple, Triple

__all__ = ["Footprint", "footprint"]


@dataclass(frozen=True)
class Footprint:
    """Memory of a training step.

    Attributes:
        parameters: Number of weights, including frozen ones.
        weight_bytes: Memory that does not grow with the number of windows: weights, gradients, the optimiser's moments,
            a moving average and, with bfloat16, copies of the weights.
        activation_bytes: Memory that one window keeps from the forward pass for the backward pass.
        again_bytes: With checkpointing, memory that the largest block needs while it is recomputed.
    """

    parameters: int
    weight_bytes: int
    activation_bytes: int
    again_bytes: int

    def step_bytes(self, windows: int) -> int:
        """Return the memory of a step with this many windows at a time, without the working memory of kernels."""
        return self.weight_bytes + windows * (self.activation_bytes + self.again_bytes)


def footprint(
    config: ModelConfig,
    *,
    out_channels: int,
    window_size: IntTriple,
    patch_size: IntTriple,
    spacing: Triple,
    bf16: bool = False,
    optim: OptimConfig | None = None,
) -> Footprint:
    """Estimate the memory of a training step of a network.

    Every storage that autograd keeps is counted once, except weights and the window itself.

    Args:
        config: Configuration of the network.
        out_channels: Number of classes, including background.
        window_size: Window size, voxels per axis.
        patch_size: Patch size of the plan.
        spacing: mm per voxel.
        bf16: Whether autocast to bfloat16 is used.
        optim: Configuration of the optimiser and of a moving average of the weights [default: AdamW, no average].

    Raises:
        PatchSizeError: The network cannot have this patch size or window.
        ConfigError: The network is not known.

    Example:
        >>> sizes = dict(out_channels=2, window_size=(48,) * 3, patch_size=(16,) * 3, spacing=(1.0,) * 3)
        >>> tiny = ModelConfig(hidden_size=48, mlp_dim=96, num_heads=4, feature_size=4)
        >>> saving = tiny.model_copy(update={"checkpointing": True})
        >>> footprint(saving, **sizes).step_bytes(1) < 0.8 * footprint(tiny, **sizes).step_bytes(1)
        True
    """
    optim = OptimConfig() if optim is None else optim

    def build() -> nn.Module:
        return make_network(
            config.model_copy(update={"checkpointing": False}),
            out_channels=out_channels,
            window_size=window_size,
            patch_size=patch_size,
            spacing=spacing,
        ).train()

    generator = torch.get_rng_state()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            try:
                network = build()
            except DataDependentOutputException:
                # A network that reads values of tensors while it is built needs real weights; they need little memory.
                network = None
        if network is None:
            network = build()
        blocks = checkpointed_blocks(network, config.network) if config.checkpointing else []
        with mode:
            image = torch.empty((1, 1, *window_size))
            kept = _Kept(network, image, blocks, bf16=bf16)
            again = kept.largest_bytes
            if blocks:
                checkpoint_activations(network, config.network)
                kept = _Kept(network, image, bf16=bf16)
    finally:
        torch.set_rng_state(generator)
    weights = list(network.parameters())
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    count = sum(weight.numel() for weight in weights)
    moments = 2 if optim.optimizer == "adamw" else int(optim.momentum > 0)
    fixed = 4 * (count + trained * (1 + moments) + (count if optim.ema else 0)) + kept.copies_bytes
    return Footprint(count, fixed, kept.activation_bytes, again)


class _Kept:
    """Memory that autograd keeps of a forward pass, measured by running one.

    Attributes:
        activation_bytes: All memory except copies of weights.
        copies_bytes: Copies of weights in bfloat16.
        largest_bytes: Memory of the block of `blocks` that keeps the most.
    """

    def __init__(self, network: nn.Module, image: Tensor, blocks: Sequence[nn.Module] = (), *, bf16: bool) -> None:
        self.activation_bytes = self.copies_bytes = self.largest_bytes = 0
        self._shapes = {tuple(weight.shape) for weight in network.parameters() if weight.ndim > 1} if bf16 else set()
        self._shapes |= {shape[::-1] for shape in self._shapes if len(shape) == 2}
        self._known = {weight.untyped_storage()._cdata for weight in (*network.parameters(), image)}
        # References to kept tensors, so that no other storage can get the same address.
        self._held: list[Tensor] = []
        self._begun: list[int] = []
        hooks = [block.register_forward_pre_hook(self._enter) for block in blocks]
        hooks += [block.register_forward_hook(self._leave) for block in blocks]
        with (
            torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
        ):
            network(image)
        for hook in hooks:
            hook.remove()

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._held.append(tensor)
            if tensor.dtype == torch.bfloat16 and tuple(tensor.shape) in self._shapes:
                self.copies_bytes += storage.nbytes()
            else:
                self.activation_bytes += storage.nbytes()
        return tensor

    def _enter(self, *_: object) -> None:
        self._begun.append(self.activation_bytes)

    def _leave(self, *_: object) -> None:
        self.largest_bytes = max(self.largest_bytes, self.activation_bytes - self._begun.pop())
