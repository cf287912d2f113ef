"""Computes baselines without training: the DSC values to compare a result with. Uses NumPy only.

On crops centred on a lesion, a fixed ball in the centre already reaches a considerable DSC. On lesions brighter or
darker than their organ, so does one HU threshold. Both are chosen with knowledge of the labels, so the baselines are
optimistic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from patchcore.errors import ConfigError, ShapeMismatchError
from patchcore.metrics.dice import VoxelCounts, mean_dsc
from patchcore.types import AnyArray, BoolArray, Triple

__all__ = ["BallBaseline", "ThresholdBaseline", "best_threshold_dsc", "centre_ball", "dsc_ball_baseline"]


class _Scored:
    """Statistics of a baseline over its DSC per case."""

    dsc: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the cases with a defined DSC."""
        return mean_dsc(self.dsc)

    @property
    def n(self) -> int:
        """Number of cases in the mean."""
        return sum(not math.isnan(v) for v in self.dsc)


@dataclass(frozen=True)
class BallBaseline(_Scored):
    """DSC of one ball at the centre of each volume.

    Attributes:
        volume_mm3: Volume of the ball.
        dsc: DSC per case, in the order given; NaN if both are empty.
    """

    volume_mm3: float
    dsc: tuple[float, ...]


@dataclass(frozen=True)
class ThresholdBaseline(_Scored):
    """DSC of the single HU threshold with the highest mean DSC over a cohort.

    Attributes:
        threshold: The threshold [HU].
        side: Whether voxels above or below the threshold are predicted as lesion.
        dsc: DSC per case, in the order given; NaN if both are empty.
    """

    threshold: float
    side: Literal["above", "below"]
    dsc: tuple[float, ...]


def centre_ball(shape: Sequence[int], spacing: Triple, volume_mm3: float) -> BoolArray:
    """Draw a ball at the centre of a volume.

    Args:
        shape: Voxels per axis.
        spacing: mm per voxel, in the same axis order.
        volume_mm3: Volume of the ball.

    Returns:
        (shape) bool: True if the voxel's centre lies in the ball.

    Raises:
        ConfigError: The volume is not positive and finite.

    Example:
        >>> int(centre_ball((9, 9, 9), (1.0, 1.0, 1.0), 36.0).sum())
        33
    """
    if not 0 < volume_mm3 < math.inf:
        raise ConfigError(f"volume_mm3 {volume_mm3} must be positive and finite", found=volume_mm3)
    radius_mm = (3 * volume_mm3 / (4 * math.pi)) ** (1 / 3)
    squares = [((np.arange(n) - (n - 1) / 2) * s) ** 2 for n, s in zip(shape, spacing, strict=True)]
    a, b, c = np.ix_(*squares)
    inside: BoolArray = a + b + c <= radius_mm**2
    return inside


def dsc_ball_baseline(masks: Iterable[BoolArray], spacings: Iterable[Triple], *, volume_mm3: float) -> BallBaseline:
    """Return the DSC of a ball at the centre of each volume against the lesion mask of this volume.

    Args:
        masks: Lesion mask of each case, 3D.
        spacings: mm per voxel of each case, in its mask's axis order.
        volume_mm3: Volume of the ball: the cohort's median lesion volume.

    Raises:
        ConfigError: The volume is not positive and finite.
        ValueError: The numbers of masks and spacings differ.
    """
    values = []
    for mask, spacing in zip(masks, spacings, strict=True):
        ball, lesion = centre_ball(mask.shape, spacing, volume_mm3), mask != 0
        values.append(
            VoxelCounts(
                int(np.count_nonzero(ball & lesion)),
                int(np.count_nonzero(ball)),
                int(np.count_nonzero(lesion)),
            ).dsc
        )
    return BallBaseline(volume_mm3=volume_mm3, dsc=tuple(values))


def _threshold_dsc(
    image: AnyArray, organ: BoolArray, lesion: BoolArray, thresholds: npt.NDArray[np.float64]
) -> AnyArray:
    """Return the DSC of one case, (2, thresholds): organ voxels strictly above and strictly below each threshold."""
    values, hits = np.sort(image[organ]), np.sort(image[organ & lesion])
    labelled = np.count_nonzero(lesion)

    def score(predicted: AnyArray, found: AnyArray) -> AnyArray:
        total = predicted + labelled
        scores: AnyArray = np.where(total > 0, 2 * found / np.maximum(total, 1), np.nan)
        return scores

    above = score(
        values.size - np.searchsorted(values, thresholds, side="right"),
        hits.size - np.searchsorted(hits, thresholds, side="right"),
    )
    below = score(np.searchsorted(values, thresholds, side="left"), np.searchsorted(hits, thresholds, side="left"))
    return np.stack((above, below))


def best_threshold_dsc(
    images: Iterable[AnyArray],
    organ_masks: Iterable[BoolArray],
    lesion_masks: Iterable[BoolArray],
    thresholds: Sequence[float] | npt.NDArray[np.float64],
) -> ThresholdBaseline:
    """Find the single HU threshold that best segments the lesions of a cohort within an organ.

    Args:
        images: CT of each case, HU, 3D. One case is read at a time, so a generator is possible.
        organ_masks: Organ mask of each case, same shape. Lesion voxels outside the organ are always missed.
        lesion_masks: Lesion mask of each case, same shape.
        thresholds: Thresholds to try [HU], each in both directions: voxels strictly above and strictly below it.

    Returns:
        The threshold and direction with the highest mean DSC. If several are equal, the first one; above before below.

    Raises:
        ConfigError: There is no threshold or no case.
        ShapeMismatchError: The arrays of a case differ in shape.
        ValueError: The numbers of images, organ masks and lesion masks differ.
    """
    tried = np.asarray(thresholds, dtype=np.float64)
    per_case = []
    for image, organ, lesion in zip(images, organ_masks, lesion_masks, strict=True):
        if not image.shape == organ.shape == lesion.shape:
            raise ShapeMismatchError(
                f"shapes differ: image {image.shape}, organ mask {organ.shape}, lesion mask {lesion.shape}",
                remedy="resample all three to one grid first",
            )
        per_case.append(_threshold_dsc(image, organ != 0, lesion != 0, tried))
    if not per_case or not tried.size:
        raise ConfigError("a threshold baseline needs at least one case and one threshold")
    table = np.stack(per_case)
    defined = ~np.isnan(table)
    means = np.where(defined, table, 0).sum(0) / np.maximum(defined.sum(0), 1)
    side, index = np.unravel_index(int(means.argmax()), means.shape)
    return ThresholdBaseline(
        threshold=float(tried[index]),
        side="below" if side else "above",
        dsc=tuple(float(v) for v in table[:, side, index]),
    )
