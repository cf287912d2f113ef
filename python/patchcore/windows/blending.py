"""Covers a volume with overlapping windows, and blends their predictions into one volume.

Window positions and Gaussian weights equal those of MONAI's ``sliding_window_inference``. All coordinates are in
array-axis order (i, j, k), all buffers in C order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from patchcore import _core
from patchcore.arrays import corner_rows, float_triple, size_triple, thread_count
from patchcore.errors import WindowError
from patchcore.types import Float32Array, Int64Array

__all__ = ["WindowBlender", "gaussian_importance", "window_grid"]


def window_grid(
    shape: Sequence[int], window_size: Sequence[int], *, overlap: float | Sequence[float] = 0.5
) -> Int64Array:
    """Return the corners of windows that cover a volume.

    Consecutive windows are ``int(window * (1 - overlap))`` voxels apart, at least 1. The last window ends at the end
    of the volume. An axis shorter than the window gets one window. Its padding is split evenly between both ends, with
    an odd voxel at the far end, so the corner can be negative.

    Args:
        shape: Number of voxels of the volume along each axis.
        window_size: Number of voxels of a window along each axis.
        overlap: Share of a window that the next window repeats, from 0 to below 1; one number, or one per axis.

    Returns:
        int64 (windows, 3); the last axis changes fastest.

    Raises:
        WindowError: A size is not positive, or an overlap is out of range.

    Example:
        >>> window_grid((10, 4, 3), (4, 4, 4)).tolist()
        [[0, 0, 0], [2, 0, 0], [4, 0, 0], [6, 0, 0]]
    """
    extent, size = size_triple("shape", shape), size_triple("window_size", window_size)
    return _core.window_grid(extent, size, float_triple("overlap", overlap))


def gaussian_importance(window_size: Sequence[int], *, sigma: float | Sequence[float] = 0.125) -> Float32Array:
    """Return the weight of each voxel of a window: a Gaussian around its centre, at least 1e-3.

    Args:
        window_size: Number of voxels along each axis.
        sigma: Standard deviation as a share of the window's edge; one number, or one per axis.

    Returns:
        float32 of shape `window_size`.

    Raises:
        WindowError: A size or a sigma is not positive.

    Example:
        >>> [f"{weight:.4f}" for weight in gaussian_importance((3, 1, 1)).ravel()]
        ['0.0286', '1.0000', '0.0286']
    """
    size = size_triple("window_size", window_size)
    return _core.gaussian_importance(size, float_triple("sigma", sigma)).reshape(size)


class WindowBlender:
    """Blends predictions of overlapping windows into one volume.

    The blender holds (channels + 1) float32 volumes. It sums windows in the order in which they are added, so the
    result depends neither on threads nor on batching. With ``sigma=None``, all voxels of a window have the same weight,
    and integers below 2**24 / (windows per voxel) are reproduced exactly.

    Args:
        shape: Number of voxels of the volume along each axis.
        channels: Number of channels of a prediction.
        window_size: Number of voxels of a window along each axis.
        sigma: Width of :func:`gaussian_importance`; None for constant weights.
        threads: Maximum number of threads; None for all cores.

    Raises:
        WindowError: A size, `channels` or `sigma` is not positive.

    Example:
        >>> volume = np.arange(60, dtype=np.float32).reshape(5, 4, 3)
        >>> blender = WindowBlender(volume.shape, 1, (4, 4, 3), sigma=None)
        >>> for i, j, k in window_grid(volume.shape, (4, 4, 3)):
        ...     blender.add((i, j, k), volume[None, None, i : i + 4, j : j + 4, k : k + 3])
        >>> bool((blender.result()[0] == volume).all())
        True
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int,
        window_size: Sequence[int],
        *,
        sigma: float | Sequence[float] | None = 0.125,
        threads: int | None = None,
    ) -> None:
        self.shape = size_triple("shape", shape)
        self.window_size = size_triple("window_size", window_size)
        if channels < 1:
            raise WindowError(f"channels is {channels}", found=channels, expected="at least 1")
        self.channels = int(channels)
        weights = (
            np.ones(self.window_size, np.float32) if sigma is None else gaussian_importance(window_size, sigma=sigma)
        )
        self._importance = weights.reshape(-1)
        self._threads = thread_count(threads)
        self._total = np.zeros((self.channels, *self.shape), dtype=np.float32)
        self._weight: Float32Array | None = np.zeros(self.shape, dtype=np.float32)

    def add(self, corners: npt.ArrayLike, predictions: npt.ArrayLike) -> None:
        """Add a batch of windows; voxels outside the volume are ignored.

        Args:
            corners: Integers (windows, 3), or (3,) for one window.
            predictions: (windows, channels, *window_size); copied if it is not C-contiguous float32.

        Raises:
            WindowError: The shapes do not match, or :meth:`result` was called before.
        """
        if self._weight is None:
            raise WindowError("the result was taken already", remedy="use a new WindowBlender for another volume")
        rows = corner_rows(corners)
        batch = np.ascontiguousarray(predictions, dtype=np.float32)
        expected = (len(rows), self.channels, *self.window_size)
        if batch.shape != expected:
            raise WindowError(f"predictions of shape {batch.shape}", found=batch.shape, expected=expected)
        _core.blend_windows(
            self._total.reshape(-1),
            self._weight.reshape(-1),
            rows,
            batch.reshape(-1),
            self._importance,
            channels=self.channels,
            shape=self.shape,
            window_size=self.window_size,
            threads=self._threads,
        )

    def result(self) -> Float32Array:
        """Return the blended volume; no window can be added afterwards.

        Returns:
            float32 (channels, *shape), the same array in every call.

        Raises:
            WindowError: At least one voxel is not covered by an added window.
        """
        if self._weight is not None:
            _core.finish_blend(self._total.reshape(-1), self._weight.reshape(-1), threads=self._threads)
            self._weight = None
        return self._total
