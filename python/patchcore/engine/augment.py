"""Augmentation: mirrored axes, and HU shifted and scaled. Every draw is a pure function of seed, step and position."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from patchcore.config.run import SamplingConfig
from patchcore.types import Float64Array
from patchcore.windows import Purpose, uniforms

__all__ = ["draw_augmentation", "flip_windows", "shifted_range"]

_FLIPS, _SHIFT, _SCALE, _DRAWS = slice(0, 3), 3, 4, 5


def draw_augmentation(seed: int, step: int, positions: np.ndarray) -> Float64Array:
    """Draw what is done to the windows of a step: float64 (windows, 5) in [0, 1): three flips, shift, scale."""
    return uniforms(seed, step, positions, purpose=Purpose.AUGMENT, count=_DRAWS)


def shifted_range(draw: Float64Array, hu_range: tuple[float, float], config: SamplingConfig) -> tuple[float, float]:
    """Return the HU range that, used for clipping and scaling, has the effect of shifted and scaled HU.

    A window's HU become ``(HU − middle) · scale + middle + shift`` before they are clipped to `hu_range`. Moving the
    range the other way does the same without a pass over the voxels, and padding stays at its lower end.

    Args:
        draw: One row of :func:`draw_augmentation`.
        hu_range: The plan's.
        config: How far to shift and scale.

    Example:
        >>> shifted_range(np.array([0, 0, 0, 0.5, 0.5]), (-100.0, 300.0), SamplingConfig())
        (-100.0, 300.0)
    """
    low, high = hu_range
    middle, width = (low + high) / 2, high - low
    shift = (2 * float(draw[_SHIFT]) - 1) * config.hu_shift * width
    scale = 1 + (2 * float(draw[_SCALE]) - 1) * config.hu_scale
    return middle + (low - middle - shift) / scale, middle + (high - middle - shift) / scale


def flip_windows(image: Tensor, label: Tensor, draws: Float64Array) -> None:
    """Mirror each window along the axes whose draw is below one half, in place, on the tensors' device.

    Args:
        image: (B, 1, X, Y, Z).
        label: (B, X, Y, Z).
        draws: (B, 5) of :func:`draw_augmentation`.
    """
    for window, row in enumerate(draws[:, _FLIPS]):
        axes = [axis for axis in range(3) if row[axis] < 0.5]
        if axes:
            image[window, 0] = torch.flip(image[window, 0], axes)
            label[window] = torch.flip(label[window], axes)
