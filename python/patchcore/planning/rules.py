"""Computes the ideal patch edge p* from the lesions of a cohort, and chooses the candidate nearest to p*.

The rule ``mean-volume`` follows Mojtahedi, Hamghalam, Do and Simpson, "Towards Optimal Patch Size in Vision
Transformers for Tumor Segmentation" (arXiv 2308.16598, MMMI 2022): the patch size is picked from the
average lesion volume. The paper's abstract and summaries state this principle but no formula. The formula used
here, p* = ∛(v̄ / voxel volume), is the edge, in voxels, of the cube with the mean lesion volume. The other rules
use another average of the volumes, or the extents of the lesions, instead of the mean volume. ``mean-volume-mm`` takes
a cube in mm instead of one in voxels: the cube root of the mean volume, divided by the spacing of each axis.
``learned`` has no formula: it takes the patch size with the best validation DSC of a sweep or of a flexible network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from patchcore.planning.samples import Cohort
from patchcore.types import Float64Array, IntTriple, Rule, Triple

__all__ = [
    "average_volume",
    "choose_patch_size",
    "geometric_edge",
    "ideal_edge",
    "ideal_edges",
    "nearest_candidate",
]


def average_volume(rule: Rule, volumes: Float64Array) -> float:
    """Return the average volume by `rule`, in the unit of `volumes`.

    Args:
        rule: Any rule except ``extent`` and ``learned``, which do not use volumes.
        volumes: float64 (N,), N ≥ 1, positive.

    Raises:
        ValueError: The rule is ``extent`` or ``learned``.

    Example:
        >>> round(average_volume(Rule.GEOMETRIC_MEAN, np.array([1.0, 100.0])), 9)
        10.0
    """
    match rule:
        case Rule.MEAN_VOLUME:
            return float(np.mean(volumes))
        case Rule.MEAN_VOLUME_MM:
            return float(np.mean(volumes))
        case Rule.MEDIAN:
            return float(np.median(volumes))
        case Rule.GEOMETRIC_MEAN:
            return float(np.exp(np.mean(np.log(volumes))))
        case Rule.EXTENT | Rule.LEARNED:
            raise ValueError(f"rule {rule} averages no volumes")


def ideal_edge(volume_mm3: float, spacing: Triple) -> float:
    """Return p*: the edge, in voxels, of the cube with volume `volume_mm3` at `spacing`.

    Example:
        >>> round(ideal_edge(8000.0, (1.0, 1.0, 1.0)), 6)
        20.0
    """
    return math.cbrt(volume_mm3 / math.prod(spacing))


def ideal_edges(rule: Rule, cohort: Cohort, spacing: Triple | None) -> Triple:
    """Return p* per canonical axis, in voxels. The axes differ only for rules ``extent`` and ``mean-volume-mm``.

    Args:
        rule: Any rule except ``learned``.
        cohort: The cohort; it has at least one lesion.
        spacing: mm per voxel, canonical axes; None: each lesion is measured in voxels of its own case.
    """
    if rule is Rule.EXTENT:
        a, b, c = cohort.extents(spacing).mean(axis=0).tolist()
        return (a, b, c)
    edge = math.cbrt(average_volume(rule, cohort.voxels(spacing)))
    if rule is Rule.MEAN_VOLUME_MM:
        mm = cohort.median_spacing() if spacing is None else spacing
        cube = math.cbrt(math.prod(mm))
        return (edge * cube / mm[0], edge * cube / mm[1], edge * cube / mm[2])
    return (edge, edge, edge)


def geometric_edge(edges: Triple) -> float:
    """Return the edge of the cube with the same volume as a box: one number for an anisotropic p*."""
    return math.cbrt(math.prod(edges))


def nearest_candidate(edge: float, candidates: Sequence[int]) -> int:
    """Return the candidate nearest to `edge` on a log scale; the smaller one on a tie.

    A log scale is used because a patch of twice the ideal edge and a patch of half of it are wrong by the same factor.

    Example:
        >>> nearest_candidate(10.4, (8, 12, 16, 24))
        12
    """
    return min(sorted(candidates), key=lambda p: log_distance(p, edge))


def log_distance(candidate: int, edge: float) -> float:
    """Return |log(candidate / p*)|, rounded so that its last bit does not decide an exact tie such as √(8·16)."""
    return round(abs(math.log(candidate / edge)), 12)


def choose_patch_size(edges: Triple, candidates: tuple[Sequence[int], Sequence[int], Sequence[int]]) -> IntTriple:
    """Return the nearest candidate per axis; each axis has its own candidates."""
    a, b, c = (nearest_candidate(edge, axis) for edge, axis in zip(edges, candidates, strict=True))
    return (a, b, c)
