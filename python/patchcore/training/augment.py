"""Augments batches of windows with PyTorch operations, on the device of the batch.

Every random draw is a pure function of seed, step and position in the global batch. A window is therefore augmented in
the same way on every rank, in every worker, and after a resume.
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from patchcore.config.run import AugmentConfig
from patchcore.types import Float64Array, IntTriple, Triple
from patchcore.windows.sampling import Purpose, uniforms

__all__ = ["Augmenter", "draw_augmentation", "shifted_range"]

_SAME_SPACING = 1.01


class _Draw(IntEnum):
    """Columns of the draws. Append new columns at the end, so that a seed keeps its meaning."""

    FLIP_X = 0
    FLIP_Y = 1
    FLIP_Z = 2
    SHIFT = 3
    SCALE = 4
    TURN_PLANE = 5
    TURNS = 6
    AFFINE = 7
    ANGLE_X = 8
    ANGLE_Y = 9
    ANGLE_Z = 10
    ZOOM = 11
    NOISE = 12
    NOISE_SIZE = 13
    NOISE_SEED = 14
    BLUR = 15
    BLUR_SIZE = 16
    LOW_RESOLUTION = 17
    RESOLUTION = 18
    GAMMA = 19
    EXPONENT = 20


def draw_augmentation(seed: int, step: int, positions: np.ndarray) -> Float64Array:
    """Draw the augmentation of a step's windows: float64 (windows, draws) in [0, 1), input of :class:`Augmenter`."""
    return uniforms(seed, step, positions, purpose=Purpose.AUGMENT, count=len(_Draw))


def shifted_range(draw: Float64Array, hu_range: tuple[float, float], config: AugmentConfig) -> tuple[float, float]:
    """Return the HU range for clipping and scaling that has the same effect as shifting and scaling the HU.

    A window's HU become ``(HU − middle) · scale + middle + shift`` before they are clipped to `hu_range`. Moving the
    range in the opposite direction has the same effect without a pass over the voxels. Padding stays at the lower end
    of the range.

    Args:
        draw: One row of :func:`draw_augmentation`.
        hu_range: HU range of the plan.
        config: Limits of shift and scale.

    Example:
        >>> shifted_range(np.full(21, 0.5), (-100.0, 300.0), AugmentConfig())
        (-100.0, 300.0)
    """
    low, high = hu_range
    middle, width = (low + high) / 2, high - low
    shift = (2 * float(draw[_Draw.SHIFT]) - 1) * config.hu_shift * width
    scale = 1 + (2 * float(draw[_Draw.SCALE]) - 1) * config.hu_scale
    return middle + (low - middle - shift) / scale, middle + (high - middle - shift) / scale


class Augmenter:
    """Augments a batch of windows.

    The order is: mirrored axes, quarter turns, rotation and zoom (label maps by nearest neighbour), blur, low
    resolution, noise, gamma. The HU were already shifted and scaled when the windows were read.

    Args:
        config: Which augmentations are applied, how often and how strongly.
        spacing: mm per voxel. Rotations are correct in mm, and quarter turns use only axes of equal spacing.
        window_size: Voxels along each axis.

    Example:
        >>> augment = Augmenter(AugmentConfig(), (1.0, 1.0, 2.0), (8, 8, 8))
        >>> image, label = torch.rand(2, 1, 8, 8, 8), torch.zeros(2, 8, 8, 8, dtype=torch.uint8)
        >>> image, label = augment(image, label, draw_augmentation(0, 0, np.arange(2)))
        >>> tuple(image.shape), tuple(label.shape)
        ((2, 1, 8, 8, 8), (2, 8, 8, 8))
    """

    def __init__(self, config: AugmentConfig, spacing: Triple, window_size: IntTriple) -> None:
        self.config = config
        self.spacing = spacing
        self.window_size = window_size
        pairs = ((0, 1), (0, 2), (1, 2))
        self.planes = [(a, b) for a, b in pairs if window_size[a] == window_size[b] and self._alike(a, b)]

    def _alike(self, a: int, b: int) -> bool:
        return max(self.spacing[a], self.spacing[b]) < _SAME_SPACING * min(self.spacing[a], self.spacing[b])

    @torch.no_grad()
    def __call__(self, image: Tensor, label: Tensor, draws: Float64Array) -> tuple[Tensor, Tensor]:
        """Augment windows, in place if possible.

        Args:
            image: (B, 1, X, Y, Z), `hu_range` scaled to [0, 1], any floating dtype and device.
            label: (B, X, Y, Z), integers, on the same device.
            draws: (B, draws), from :func:`draw_augmentation`.

        Returns:
            Image and label with unchanged shapes.
        """
        for window, row in enumerate(draws):
            given, given_label = image[window], label[window]
            one, its_label = self._in_space(given, given_label, row)
            one = self._intensities(one, row)
            if one is not given:
                given.copy_(one)
            if its_label is not given_label:
                given_label.copy_(its_label)
        return image, label

    def _in_space(self, image: Tensor, label: Tensor, row: Float64Array) -> tuple[Tensor, Tensor]:
        config = self.config
        axes = [axis for axis in range(3) if row[_Draw.FLIP_X + axis] < 0.5] if config.flips else []
        if axes:
            image, label = torch.flip(image, [1 + axis for axis in axes]), torch.flip(label, axes)
        if config.quarter_turns and self.planes:
            a, b = self.planes[int(row[_Draw.TURN_PLANE] * len(self.planes))]
            turns = int(4 * row[_Draw.TURNS])
            if turns:
                image, label = torch.rot90(image, turns, (1 + a, 1 + b)), torch.rot90(label, turns, (a, b))
        if row[_Draw.AFFINE] < config.affine_share:
            theta = torch.from_numpy(self._theta(row)).to(image.device, torch.float32)
            grid = functional.affine_grid(theta[None], [1, 1, *image.shape[1:]], align_corners=False)
            sampled = functional.grid_sample(image[None].float(), grid, align_corners=False)
            nearest = functional.grid_sample(label[None, None].float(), grid, mode="nearest", align_corners=False)
            image, label = sampled[0].to(image.dtype), nearest[0, 0].to(label.dtype)
        return image, label

    def _theta(self, row: Float64Array) -> Float64Array:
        """Return the source position of each voxel in grid_sample's convention: reversed axes, edges at ±1."""
        angles = [(2 * row[_Draw.ANGLE_X + axis] - 1) * math.radians(self.config.rotate_degrees) for axis in range(3)]
        # The rotation is computed in mm, so it is also correct if the window has different lengths along the two axes.
        matrix = np.eye(3)
        for axis, angle in enumerate(angles):
            a, b = (axis + 1) % 3, (axis + 2) % 3
            turn = np.eye(3)
            turn[a, a] = turn[b, b] = math.cos(angle)
            turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
            matrix = matrix @ turn
        matrix /= 1 + (2 * row[_Draw.ZOOM] - 1) * self.config.zoom
        half_mm = np.asarray(self.spacing) * self.window_size / 2
        matrix = matrix * half_mm[None, :] / half_mm[:, None]
        theta = np.zeros((3, 4))
        theta[:, :3] = matrix[::-1, ::-1]
        return theta

    def _intensities(self, image: Tensor, row: Float64Array) -> Tensor:
        config = self.config
        if row[_Draw.BLUR] < config.blur_share:
            image = self._blurred(image, config.blur * float(row[_Draw.BLUR_SIZE]))
        if row[_Draw.LOW_RESOLUTION] < config.low_resolution_share:
            share = config.low_resolution + (1 - config.low_resolution) * float(row[_Draw.RESOLUTION])
            size = [max(1, round(n * share)) for n in image.shape[1:]]
            coarse = functional.interpolate(image[None].float(), size, mode="nearest-exact")
            fine = functional.interpolate(coarse, image.shape[1:], mode="trilinear", align_corners=False)
            image = fine[0].to(image.dtype)
        if row[_Draw.NOISE] < config.noise_share:
            # A separate generator makes the noise independent of earlier draws.
            generator = torch.Generator(image.device).manual_seed(int(row[_Draw.NOISE_SEED] * 2**53))
            size_of_noise = config.noise * float(row[_Draw.NOISE_SIZE])
            noise = torch.randn(image.shape, generator=generator, device=image.device, dtype=torch.float32)
            image = (image + size_of_noise * noise).to(image.dtype)
        if row[_Draw.GAMMA] < config.gamma_share:
            exponent = (1 + config.gamma) ** (2 * float(row[_Draw.EXPONENT]) - 1)
            image = image.clamp(0, 1) ** exponent
        return image

    def _blurred(self, image: Tensor, deviation: float) -> Tensor:
        """Blur with a Gaussian of equal width in mm along all axes; `deviation` is in voxels of the finest axis."""
        blurred = image[None].float()
        for axis in range(3):
            sigma = deviation * min(self.spacing) / self.spacing[axis]
            reach = math.ceil(3 * sigma)
            if sigma < 0.05 or reach >= self.window_size[axis]:
                continue
            offsets = torch.arange(-reach, reach + 1, device=image.device, dtype=torch.float32)
            weights = torch.exp(-(offsets**2) / (2 * sigma**2))
            shape, padding = [1, 1, 1, 1, 1], [0] * 6
            shape[2 + axis] = 2 * reach + 1
            padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = reach
            padded = functional.pad(blurred, padding, mode="replicate")
            blurred = functional.conv3d(padded, (weights / weights.sum()).reshape(shape))
        return blurred[0].to(image.dtype)
