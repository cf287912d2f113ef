"""Predicts whole volumes by sliding window; overlapping windows are blended with Gaussian weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from patchcore.config.plan import TargetPlan
from patchcore.inference.segment import mirrored_axes
from patchcore.models.device import Placement
from patchcore.store.window_reader import WindowCase, WindowReader
from patchcore.types import Float32Array
from patchcore.windows.blending import WindowBlender
from patchcore.windows.format import WindowFormat

__all__ = ["predict_volume", "window_probabilities", "windows_a_batch"]


def windows_a_batch(placement: Placement) -> int:
    """Return the number of windows that are predicted per batch."""
    return 4 if placement.device.type == "cpu" else 16


def window_probabilities(
    networks: Sequence[nn.Module], placement: Placement, *, mirror: bool = False
) -> Callable[[Float32Array], Float32Array]:
    """Return the function that predicts a batch of windows.

    Args:
        networks: Each maps (B, 1, *window_size) to logits (B, 1 + classes, *window_size). Their probabilities are
            averaged.
        placement: Where to compute; the networks are on this device already.
        mirror: Whether to average over the 8 mirrored versions of each window, along every subset of the axes.

    Returns:
        Maps scaled windows, float32 (B, *window_size), to probabilities, float32 (B, 1 + classes, *window_size).
    """
    flips = mirrored_axes(mirror=mirror)

    @torch.inference_mode()
    def probabilities(windows: Float32Array) -> Float32Array:
        # The weights have this format, too; otherwise every convolution converts between both, which costs a tenth.
        batch = torch.from_numpy(windows[:, None]).to(placement.device, memory_format=torch.channels_last_3d)
        total: torch.Tensor | None = None
        for network in networks:
            for axes in flips:
                with placement.precision():
                    logits = network(torch.flip(batch, axes) if axes else batch)
                found = torch.softmax(logits.float(), dim=1)
                if axes:
                    found = torch.flip(found, axes)
                total = found if total is None else total.add_(found)
        assert total is not None
        result: Float32Array = total.div_(len(flips) * len(networks)).contiguous().cpu().numpy()
        return result

    return probabilities


def predict_volume(
    network: nn.Module,
    image: WindowCase,
    target: TargetPlan,
    placement: Placement,
    *,
    overlap: float = 0.5,
    mirror: bool = False,
    look: Callable[[], None] | None = None,
) -> Float32Array:
    """Predict the class probabilities of a volume by sliding window. The Gaussian's σ is 0.125 of the window edge.

    A volume smaller than the window is padded with the lower end of ``hu_range``. The mode of the network is not
    changed: set it to evaluation mode before the call.

    Args:
        network: Maps (B, 1, *window_size) to logits (B, 1 + classes, *window_size).
        image: HU on the training grid, (X, Y, Z): an array, a case of a store, or another input that
            :class:`patchcore.store.window_reader.WindowReader` reads.
        target: The plan: window, ``hu_range`` and classes.
        placement: Where to compute.
        overlap: Overlap of neighbouring windows.
        mirror: Whether to average over the 8 mirrored versions of each window, along every subset of the axes.
        look: Called before each batch of windows; its exceptions are passed on.

    Returns:
        float32 (1 + classes, X, Y, Z), background first.
    """
    channels = len(target.classes) + 1
    reader = WindowReader([image])
    corners = reader.grid(0, target.window_size, overlap=overlap)
    blender = WindowBlender(reader.shape(0), channels, target.window_size)
    form = WindowFormat(target.hu_range)
    size = windows_a_batch(placement)
    probabilities = window_probabilities([network], placement, mirror=mirror)
    for start in range(0, len(corners), size):
        if look is not None:
            look()
        part = corners[start : start + size]
        windows = reader.read_as(0, part, target.window_size, form, with_labels=False).image
        blender.add(part, probabilities(windows))
    return blender.result()
