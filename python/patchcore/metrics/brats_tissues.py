"""Joins lesions of one BraTS tissue that touch the same lesion of another tissue, as the scripts of 2024 do.

A label map of a tumour has several tissues: necrotic core (NETC, label 1), oedema (SNFH, 2), enhancing tumour (ET, 3)
and resection cavity (RC, 4). Two parts of an enhancing rim around one necrotic core are one lesion for these scripts.
Each side, truth and prediction, is joined on its own.

Source: ``metrics_GLI.py``, ``metrics_MET.py`` and ``metrics_SSA.py`` of rachitsaluja/BraTS-2024-Metrics on GitHub,
functions ``combine_lesions_*``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from patchcore.metrics.pair import MaskPair
from patchcore.types import AnyArray, Int64Array

__all__ = ["LABELS", "Tissue", "joined_groups", "partners"]

LABELS = {"NETC": 1, "SNFH": 2, "ET": 3, "RC": 4}
"""Tissue → its label in the label maps of the challenges."""

_PARTNERS: dict[str, dict[str, tuple[str, ...]]] = {
    "GLI-2024": {
        "NETC": ("ET", "RC"),
        "ET": ("NETC", "RC"),
        "RC": ("ET", "NETC"),
        "SNFH": ("ET", "RC", "NETC"),
    },
    "MET-2024": {"ET": ("NETC",)},
    "SSA-2024": {"ET": ("NETC",)},
}


@dataclass(frozen=True)
class Tissue:
    """How the lesions of a tissue are formed.

    Attributes:
        name: Name of the tissue, a key of :data:`LABELS`.
        dilations: Number of dilations that decide which components are one lesion.
        least_voxels: On the side of the prediction, lesions of at most this many voxels do not exist.
    """

    name: str
    dilations: int
    least_voxels: float


def partners(challenge: str, region: str) -> tuple[str, ...]:
    """Return the tissues that join lesions of a region, in the order of the script; empty if there are none."""
    return _PARTNERS.get(challenge, {}).get(region, ())


def joined_groups(
    labels: AnyArray, affine: npt.ArrayLike, tissue: Tissue, others: Iterable[Tissue], *, predicted: bool
) -> Int64Array:
    """Join the lesions of a tissue on one side.

    Args:
        labels: Label map of this side, (i, j, k), with the labels of the challenge.
        affine: Voxel index → world mm, float64 (4, 4).
        tissue: The tissue with the lesions to join.
        others: The tissues that join them, in the order of the script.
        predicted: Whether this is the side of the prediction.

    Returns:
        For each group of dilated components, as :meth:`MaskPair.dilated` numbers them, the number of its joined group;
        int64 (groups,). Equal numbers are one lesion.
    """
    joined: Int64Array | None = None
    for other in others:
        pair = MaskPair(labels == LABELS[tissue.name], labels == LABELS[other.name], affine=affine)
        groups = pair.dilated(tissue.dilations)[0]
        if joined is None:
            joined = np.arange(int(groups.max(initial=-1)) + 1)
        others_groups = pair.swapped().dilated(other.dilations)[0]
        exists = _existing(groups, pair.truth.voxel_count, tissue, predicted=predicted)
        other_exists = _existing(others_groups, pair.prediction.voxel_count, other, predicted=predicted)
        near, reached = pair.dilated(1)
        group_of_near = dict(zip(near.tolist(), groups.tolist(), strict=True))
        touching = {
            (int(joined[group_of_near[grown]]), int(others_groups[component]))
            for grown, component, _ in reached.tolist()
            if exists[group_of_near[grown]] and other_exists[others_groups[component]]
        }
        if len(touching) > 1:  # the scripts leave a single contact as it is
            joined = _renumbered(joined, touching)
    assert joined is not None
    return joined


def _existing(groups: Int64Array, voxels: Int64Array, tissue: Tissue, *, predicted: bool) -> npt.NDArray[np.bool_]:
    sizes = np.bincount(groups, weights=voxels)
    return sizes > tissue.least_voxels if predicted else np.ones(len(sizes), bool)


def _renumbered(joined: Int64Array, touching: Iterable[tuple[int, int]]) -> Int64Array:
    """Give lesions the number of the first lesion of the other tissue that they touch."""
    first: dict[int, int] = {}
    for lesion, other in sorted(touching):
        first.setdefault(lesion, other)
    beyond = int(joined.max()) + 1
    numbers: Mapping[int, int] = {lesion: beyond + other for lesion, other in first.items()}
    return np.array([numbers.get(lesion, lesion) for lesion in joined.tolist()], np.int64)
