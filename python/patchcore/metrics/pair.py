"""A true and a predicted mask on one grid: their components, what these share, and the distances between surfaces.

The Rust core finds the spans of both masks once. Everything else is computed from the spans: no volume of component
numbers and no distance transform of a volume is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore import _core
from patchcore.affines import spacing_of, voxel_volume_mm3
from patchcore.arrays import thread_count
from patchcore.errors import ConfigError, ShapeMismatchError
from patchcore.lesions.table import Lesions
from patchcore.types import Affine, AnyArray, Float64Array, Int64Array, Triple

__all__ = ["CONVENTIONS", "MaskPair", "SurfaceScore", "surface_scores"]

CONVENTIONS = ("mesh", "surfel", "voxel")
"""Names of the surface conventions; the first one is the default."""


@dataclass(frozen=True)
class SurfaceScore:
    """How far the surfaces of a true and of a predicted mask are apart, under one convention.

    Attributes:
        convention: ``mesh``, ``surfel`` or ``voxel``; see :func:`surface_scores`.
        hd_mm: Hausdorff distance [mm]: the largest distance from an element of one surface to the other surface.
        hd95_mm: The larger one of the two directed 95th percentiles [mm].
        masd_mm: The mean of the two directed mean distances [mm].
        assd_mm: The mean distance over the elements of both surfaces [mm].
        rmsd_mm: The root of the mean squared distance over the elements of both surfaces [mm].
        nsd: Tolerance [mm] → normalised surface distance in [0, 1]: the share of both surfaces within the tolerance of
            the other one.
        nsd_directed: Tolerance [mm] → the share of the true surface within it, and that of the predicted surface.
        truth_to_prediction_mm: Mean distance from the true surface to the predicted one [mm].
        prediction_to_truth_mm: Mean distance from the predicted surface to the true one [mm].
        reason: Why values are not finite; empty if all are.
    """

    convention: str
    hd_mm: float
    hd95_mm: float
    masd_mm: float
    assd_mm: float
    rmsd_mm: float
    nsd: Mapping[float, float]
    nsd_directed: Mapping[float, tuple[float, float]]
    truth_to_prediction_mm: float
    prediction_to_truth_mm: float
    reason: str = ""

    @classmethod
    def of_empty(
        cls, convention: str, tolerances_mm: Sequence[float], *, truth: bool, prediction: bool
    ) -> SurfaceScore:
        """Return the score if one of the masks, or both, have no voxel.

        One empty mask: distances are infinite, NSD is 0. Two empty masks: under ``mesh``, as in MeshMetrics, distances
        are 0 and NSD is 1; the sources of ``surfel`` and ``voxel`` define no value, so all are NaN.

        Args:
            convention: Name of the convention.
            tolerances_mm: Tolerances of NSD [mm].
            truth: Whether the true mask is empty.
            prediction: Whether the predicted mask is empty.
        """
        if truth and prediction:
            perfect = convention == "mesh"
            distance, share = (0.0, 1.0) if perfect else (math.nan, math.nan)
            reason = "" if perfect else "both masks are empty"
        else:
            distance, share = math.inf, 0.0
            reason = f"the {'true' if truth else 'predicted'} mask is empty"
        nsd, directed = dict.fromkeys(tolerances_mm, share), dict.fromkeys(tolerances_mm, (share, share))
        return cls(convention, *(distance,) * 5, nsd, directed, distance, distance, reason)


class MaskPair:
    """The components of a true and of a predicted mask.

    Args:
        truth: Label map or mask, shape (i, j, k); any integer dtype, bool, or floats with integer values.
        prediction: Label map or mask of the same shape.
        affine: Voxel index → world mm, float64 (4, 4).
        labels: Label values that belong to the mask [default: all that are not 0].
        connectivity: 6, 18 or 26.
        instances: Each label is one component, wherever its voxels lie.
        min_volume_mm3: Components smaller than this do not exist, on both sides [mm³].
        axial_axis: Array axis that is normal to axial slices [default: the one nearest to world S].
        threads: Number of threads [default: all cores].

    Raises:
        ShapeMismatchError: The shapes differ.
        NonIntegralLabelError: The value of a voxel is not an integer.
        ConfigError: The minimum volume is not a number from 0 up.
        DataError: The affine or the connectivity is impossible.

    Example:
        >>> truth = np.zeros((8, 8, 8), np.uint8)
        >>> truth[1:3, 1:3, 1:3] = truth[6, 6, 6] = 1
        >>> pair = MaskPair(truth, np.roll(truth, 1, axis=0), affine=np.eye(4))
        >>> pair.truth.voxel_count.tolist(), pair.overlaps.tolist()
        ([8, 1], [[0, 0, 4]])
    """

    def __init__(
        self,
        truth: AnyArray,
        prediction: AnyArray,
        *,
        affine: npt.ArrayLike,
        labels: Sequence[int] | None = None,
        connectivity: int = 26,
        instances: bool = False,
        min_volume_mm3: float = 0.0,
        axial_axis: int | None = None,
        threads: int | None = None,
    ) -> None:
        truth, prediction = np.asarray(truth), np.asarray(prediction)
        if truth.shape != prediction.shape:
            raise ShapeMismatchError(
                f"prediction shape {prediction.shape} does not match label shape {truth.shape}",
                found=prediction.shape,
                expected=truth.shape,
                remedy="resample the prediction to the label's grid first",
            )
        self.affine: Affine = np.asarray(affine, dtype=np.float64)
        self.spacing: Triple = spacing_of(self.affine)
        self.voxel_mm3 = voxel_volume_mm3(self.affine)
        self._threads = thread_count(threads)
        self._arguments: dict[str, Any] = {
            "affine": affine, "labels": labels, "connectivity": connectivity, "instances": instances,
            "min_volume_mm3": min_volume_mm3, "axial_axis": axial_axis, "threads": threads,
        }  # fmt: skip
        self._arrays = (truth, prediction)
        self._nearest: dict[Triple, Int64Array] = {}
        self._core = _core.MaskPair(
            truth,
            prediction,
            labels=None if labels is None else [int(label) for label in labels],
            connectivity=connectivity,
            instances=instances,
            # As in measuring: a component of exactly the minimum volume is kept, whatever its product rounds to.
            min_voxels=_least_voxels(min_volume_mm3, self.voxel_mm3),
            threads=self._threads,
        )
        tables = self._core.tables(self.affine.tolist(), axial_axis=axial_axis)
        self.truth, self.prediction = (self._lesions(columns, truth.shape, connectivity) for columns in tables)
        self.overlaps: Int64Array = self._core.overlaps()
        """One row (true component, predicted component, shared voxels) per pair that shares a voxel, int64 (N, 3)."""
        self.on_specks: Int64Array = self._core.on_specks()
        """Voxels that each predicted component shares with true components below the minimum volume, int64 (M,)."""

    def _lesions(self, columns: dict[str, Any], shape: tuple[int, ...], connectivity: int) -> Lesions:
        a, b, c = shape
        return Lesions(
            **columns,
            shape=(a, b, c),
            spacing=self.spacing,
            affine=self.affine,
            connectivity=connectivity,
            min_volume_mm3=0.0,
        )

    def swapped(self) -> MaskPair:
        """Return the same pair with the prediction as truth; components keep their numbers."""
        truth, prediction = self._arrays
        return MaskPair(prediction, truth, **self._arguments)

    def overlap_matrix(self) -> Int64Array:
        """Return the numbers of shared voxels, int64 (true components, predicted components)."""
        table = np.zeros((len(self.truth), len(self.prediction)), np.int64)
        table[self.overlaps[:, 0], self.overlaps[:, 1]] = self.overlaps[:, 2]
        return table

    def dilated(self, iterations: int) -> tuple[Int64Array, Int64Array]:
        """Group true components if their dilations touch, and return which predicted components a dilation reaches.

        In each iteration a mask grows by all voxels that share a face or an edge with it.

        Returns:
            The group of each true component, int64 (true components,), and rows (group, predicted component, shared
            voxels), int64 (N, 3).
        """
        groups, overlaps = self._core.dilated(iterations)
        return groups, overlaps

    def nearest_voxels(self, spacing: Sequence[float] | None = None) -> Int64Array:
        """Return how many predicted voxels are nearest to each true component, int64 (true components,).

        Args:
            spacing: Length of a voxel along each axis [default: the spacing of the masks, mm].
        """
        a, b, c = map(float, self.spacing if spacing is None else spacing)
        if (a, b, c) not in self._nearest:
            self._nearest[a, b, c] = self._core.nearest_voxels((a, b, c))
        return self._nearest[a, b, c]

    def surfaces(
        self,
        groups: Sequence[tuple[Sequence[int], Sequence[int]]] | None = None,
        *,
        conventions: Sequence[str] = CONVENTIONS[:1],
        tolerances_mm: Sequence[float] = (1.0, 2.0),
    ) -> list[dict[str, SurfaceScore]]:
        """Return the surface scores of groups of true and predicted components, each taken as one mask.

        Args:
            groups: Numbers of true and of predicted components [default: one group with all components].
            conventions: Names of conventions.
            tolerances_mm: Tolerances of NSD [mm].

        Returns:
            For each group: convention → score.

        Raises:
            ConfigError: A convention does not exist, or a tolerance is negative.
        """
        unknown = [name for name in conventions if name not in CONVENTIONS]
        if unknown:
            raise ConfigError(f"surface convention {unknown[0]!r}", found=unknown[0], expected=", ".join(CONVENTIONS))
        if not all(0 <= mm < math.inf for mm in tolerances_mm):
            raise ConfigError(f"tolerances {tuple(tolerances_mm)} mm", expected="numbers from 0 up")
        if groups is None:
            groups = [(range(len(self.truth)), range(len(self.prediction)))]
        filled = [(list(truth), list(prediction)) for truth, prediction in groups if len(truth) and len(prediction)]
        measured = iter(
            self._core.surfaces(
                filled,
                self.spacing,
                conventions=list(conventions),
                percents=[100.0, 95.0],
                tolerances_mm=[float(mm) for mm in tolerances_mm],
                threads=self._threads,
            )
        )
        found = []
        for truth, prediction in groups:
            if len(truth) and len(prediction):
                scores = zip(conventions, next(measured), strict=True)
                found.append({name: _score(name, values, tolerances_mm) for name, values in scores})
            else:
                empty = {"truth": not len(truth), "prediction": not len(prediction)}
                found.append({name: SurfaceScore.of_empty(name, tolerances_mm, **empty) for name in conventions})
        return found


def _least_voxels(min_volume_mm3: float, voxel_mm3: float) -> int:
    """Return the smallest number of voxels that together have at least `min_volume_mm3`."""
    if not 0 <= min_volume_mm3 < math.inf:
        raise ConfigError(f"minimum volume {min_volume_mm3} mm3", expected="a number from 0 up")
    if not min_volume_mm3 or not voxel_mm3 > 0:  # the core refuses an impossible affine
        return 0
    count = max(0, math.floor(min_volume_mm3 / voxel_mm3) - 1)
    while count * voxel_mm3 < min_volume_mm3:
        count += 1
    return count


def _score(convention: str, values: dict[str, Any], tolerances_mm: Sequence[float]) -> SurfaceScore:
    hd_mm, hd95_mm = values.pop("hausdorff_mm")
    nsd, directed = (dict(zip(tolerances_mm, values.pop(name), strict=True)) for name in ("nsd", "nsd_directed"))
    return SurfaceScore(convention, hd_mm, hd95_mm, nsd=nsd, nsd_directed=directed, **values)


def surface_scores(
    truth: AnyArray,
    prediction: AnyArray,
    spacing: Sequence[float] | Float64Array,
    *,
    labels: Sequence[int] | None = None,
    conventions: Sequence[str] = CONVENTIONS[:1],
    tolerances_mm: Sequence[float] = (1.0, 2.0),
    threads: int | None = None,
) -> dict[str, SurfaceScore]:
    """Measure how far the surfaces of two masks are apart.

    Three conventions differ in what the surface is; each gives other numbers for the same masks:

    - ``mesh``: every voxel face between inside and outside, divided into two triangles and weighted by area; the
      distance from a triangle's centre to the nearest point of the other surface. As MeshMetrics 0.2.1 from GitHub
      (Podobnik and Vrtovec, arXiv 2509.05670); pymeshmetrics 1 and later from PyPI uses marching cubes, which is
      another convention. Distances exactly at a tolerance have the rounding of VTK, which decides whether they are
      within it.
    - ``surfel``: every corner of eight voxels between inside and outside, weighted by the area that marching cubes
      draws there; the distance between corners. As DeepMind's surface-distance (Nikolov et al., arXiv 1809.04430).
    - ``voxel``: every voxel of the mask that has a face to the outside; the distance between voxel centres, each with
      the same weight, and percentiles with linear interpolation. As MONAI.

    The border of the array counts as outside. For masks without a voxel see :meth:`SurfaceScore.of_empty`.

    Args:
        truth: Mask or label map, shape (i, j, k).
        prediction: Mask or label map of the same shape.
        spacing: mm per voxel along each array axis.
        labels: Label values that belong to the mask [default: all that are not 0].
        conventions: Names of conventions, of :data:`CONVENTIONS`.
        tolerances_mm: Tolerances of the normalised surface distance [mm].
        threads: Number of threads [default: all cores].

    Returns:
        Convention → score.

    Raises:
        ShapeMismatchError: The shapes differ.
        ConfigError: A convention does not exist, or a tolerance is negative.
        DataError: The spacing is impossible.

    Example:
        >>> truth = np.zeros((9, 9, 9), bool)
        >>> truth[2:7, 2:7, 2:7] = True
        >>> score = surface_scores(truth, np.roll(truth, 1, axis=0), (2.0, 1.0, 1.0))["mesh"]
        >>> round(score.hd_mm, 6), round(score.nsd[1.0], 3)
        (2.0, 0.784)
    """
    pair = MaskPair(truth, prediction, affine=np.diag([*map(float, spacing), 1.0]), labels=labels, threads=threads)
    return pair.surfaces(conventions=conventions, tolerances_mm=tolerances_mm)[0]
