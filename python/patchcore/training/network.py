"""Prepares the network for training steps: optional compilation and freezing of the encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from patchcore.config.plan import TargetPlan
from patchcore.config.run import TrainConfig
from patchcore.models.device import Placement
from patchcore.models.unetr import UNETR, flexible_sizes
from patchcore.models.weights import ENCODERS
from patchcore.training.loss import outputs_of

__all__ = ["Compiled", "Mode", "Step", "compiled", "freeze_encoder"]

Mode: TypeAlias = Literal["off", "default", "graphs"]
_MODES: Final = {"default": "default", "graphs": "reduce-overhead"}
_LIMIT: Final = 1e-3
_LIMIT_REDUCED: Final = 3e-2
"""Relative difference of loss and gradient that rounding explains, in float32 and in bf16."""

Step: TypeAlias = Callable[[Tensor], Tensor | Sequence[Tensor]]
"""A network as called by training steps: windows in, logits out, at several resolutions with deep supervision."""


@dataclass(frozen=True)
class Compiled:
    """The network that training steps call.

    Attributes:
        network: The network, compiled or not.
        mode: ``off``, ``default`` or ``graphs``.
    """

    network: nn.Module
    mode: Mode


def compiled(
    network: nn.Module,
    config: TrainConfig,
    target: TargetPlan,
    placement: Placement,
    warn: Callable[[str], None],
    *,
    before: Mode | None = None,
) -> Compiled:
    """Return the network that training steps call: compiled by torch.compile if the configuration asks for it.

    A compiled network is compared with the plain one before training: loss and gradient must be the same, to the
    rounding of the precision. If they are not, or if it fails, the next slower way is taken: CUDA graphs, compiled,
    plain. A warning says so, unless ``train.compile`` is ``auto``, which promises nothing. Weights and random
    generators are not changed.

    Args:
        network: The network, on its device and in training mode. Validation and checkpoints use it uncompiled.
        config: ``compile``, ``batch_size`` and ``accumulate`` are used.
        target: The plan's target, for the window size.
        placement: Where to compute.
        warn: Called with a message if compiling fails.
        before: What the run used before; ``auto`` keeps it, because other kernels round differently.
    """
    generators = torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        for mode in _ways(network, config, placement, before):
            try:
                fast = cast("nn.Module", torch.compile(network, mode=_MODES[mode]))
                if all(_agree(network, fast, config, target, placement) for _ in _each_size(network)):
                    return Compiled(fast, mode)
                why = "its loss differs from that of the plain network"
            except torch.OutOfMemoryError:
                if config.compile != "auto":
                    raise
                why = "it needs more memory than there is"
            except Exception as error:
                reason = str(error).splitlines() or [""]
                why = f"{type(error).__name__}: {reason[0][:200]}"
            if config.compile == "auto":
                print(f"torch.compile ({mode}) is not used: {why}", flush=True)
            else:
                warn(f"torch.compile failed ({why}): the steps run uncompiled")
    finally:
        network.zero_grad(set_to_none=True)
        torch.set_rng_state(generators[0])
        for device, state in enumerate(generators[1]):
            torch.cuda.set_rng_state(state, device)
    return Compiled(network, "off")


def _ways(network: nn.Module, config: TrainConfig, placement: Placement, before: Mode | None) -> list[Mode]:
    """Return the ways to compile that are tried, the fastest first."""
    if config.compile == "off":
        return []
    if config.compile != "auto":
        return [config.compile]
    if placement.device.type == "cpu":
        return []  # compiling takes longer than most trainings on a CPU gain
    # Captured graphs add up no gradients, are not shared by ranks, and have one patch size.
    captures = config.accumulate == 1 and placement.ranks == 1 and not flexible_sizes(network)
    if before is not None and (captures or before != "graphs"):
        return [] if before == "off" else [before]
    return ["graphs", "default"] if captures else ["default"]


def _each_size(network: nn.Module) -> Iterator[None]:
    """Set a flexible network to each of its patch sizes: each is compiled for itself. Yield once for any other one."""
    sizes = flexible_sizes(network)
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, 2 * len(sizes))
    for size in sizes:
        cast("UNETR", network).use(size)
        yield
    if not sizes:
        yield


def _agree(network: nn.Module, fast: nn.Module, config: TrainConfig, target: TargetPlan, placement: Placement) -> bool:
    """Return whether loss and norm of the gradient are those of the plain network, for two batches."""
    windows = config.batch_size // (placement.ranks * config.accumulate)
    found = []
    for seed in range(2):
        image = torch.rand((windows, 1, *target.window_size), generator=torch.Generator().manual_seed(seed)).to(
            placement.device
        )
        for one in (network, fast):
            # The next run of a captured graph must not add to the gradient of the previous run.
            network.zero_grad(set_to_none=True)
            torch.manual_seed(seed)  # of dropout
            with placement.precision():
                outputs = outputs_of(one(image))
            loss = torch.stack([logits.float().square().mean() for logits in outputs]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            gradients = [value.grad for value in network.parameters() if value.grad is not None]
            found.append((float(loss.detach()), float(nn.utils.get_total_norm(gradients))))
    network.zero_grad(set_to_none=True)
    if any(isinstance(module, nn.Dropout) and module.p > 0 for module in network.modules()):
        return all(map(math.isfinite, (value for pair in found for value in pair)))  # it draws other numbers
    limit = _LIMIT_REDUCED if placement.autocast is not None else _LIMIT
    pairs = zip(found[0::2], found[1::2], strict=True)
    return all(math.isclose(a, b, rel_tol=limit) for plain, quick in pairs for a, b in zip(plain, quick, strict=True))


def freeze_encoder(network: nn.Module) -> None:
    """Remove the gradients of the transformer, so that the next optimiser step does not change it."""
    for name, parameter in network.named_parameters():
        if name.startswith(ENCODERS):
            parameter.grad = None
