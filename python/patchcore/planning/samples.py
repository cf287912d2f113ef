"""Holds the cases and lesions that planning needs, as records and as NumPy columns.

All axes are closest-canonical (RAS+), lengths in mm. Nothing here reads a file, so every rule can also be tested on
invented lesions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from patchcore.errors import DataError
from patchcore.study.fingerprint import Fingerprint
from patchcore.types import Float64Array, Int64Array, IntTriple, Triple

__all__ = ["CaseSample", "Cohort", "FindLearned", "Learned", "LesionSample", "cohort_of", "samples_of"]


@dataclass(frozen=True)
class CaseSample:
    """One accepted case: its patient, and its grid in canonical axes."""

    case_id: str
    patient: str
    spacing: Triple
    shape: IntTriple


@dataclass(frozen=True)
class LesionSample:
    """One lesion: its case, label, volume and bounding-box extent per canonical axis."""

    case_id: str
    label: int
    volume_mm3: float
    extent_mm: Triple


_ANISOTROPIC = 3


@dataclass(frozen=True)
class Cohort:
    """The lesions of one label as columns of length N, and the grids of all C cases.

    Attributes:
        volume_mm3: float64 (N,).
        extent_mm: float64 (N, 3), bounding box per canonical axis.
        own_spacing: float64 (N, 3), spacing of the case of each lesion.
        patient: int64 (N,), index of the lesion's patient among all patients with lesions.
        patient_count: Number of patients with lesions.
        case_spacing: float64 (C, 3), all cases, with or without lesions.
        case_shape: int64 (C, 3).
    """

    volume_mm3: Float64Array
    extent_mm: Float64Array
    own_spacing: Float64Array
    patient: Int64Array
    patient_count: int
    case_spacing: Float64Array
    case_shape: Int64Array

    def __len__(self) -> int:
        return len(self.volume_mm3)

    def voxels(self, spacing: Triple | None) -> Float64Array:
        """Return lesion volumes in voxels at `spacing` (None: the spacing of each case); float64 (N,)."""
        voxel_mm3 = self.own_spacing.prod(axis=1) if spacing is None else float(np.prod(spacing))
        return np.asarray(self.volume_mm3 / voxel_mm3, dtype=np.float64)

    def extents(self, spacing: Triple | None) -> Float64Array:
        """Return lesion extents in voxels at `spacing` (None: the spacing of each case); float64 (N, 3)."""
        return self.extent_mm / (self.own_spacing if spacing is None else np.asarray(spacing))

    def median_spacing(self) -> Triple:
        """Return the per-axis median spacing over all cases."""
        a, b, c = np.median(self.case_spacing, axis=0).tolist()
        return (a, b, c)

    def fine_spacing(self) -> Triple:
        """Return the median spacing, but a finer one along an axis that is much coarser than the others.

        If the coarsest axis has more than three times the spacing of both others, and the median case has fewer than a
        third of their voxels along it, its spacing is the 10th percentile over the cases, though not finer than that
        of the other axes. Cases with thin slices then keep them.

        Source: nnU-Net (Isensee et al., Nature Methods 18, 2021), the target spacing of anisotropic data sets.
        """
        spacing, shape = np.array(self.median_spacing()), np.median(self.case_shape, axis=0)
        coarse = int(spacing.argmax())
        others = [axis for axis in range(3) if axis != coarse]
        if (
            spacing[coarse] > _ANISOTROPIC * spacing[others].max()
            and shape[coarse] * _ANISOTROPIC < shape[others].min()
        ):
            thin = float(np.percentile(self.case_spacing[:, coarse], 10))
            spacing[coarse] = max(thin, float(spacing[others].max()))
        a, b, c = spacing.tolist()
        return (a, b, c)

    def case_extents(self, spacing: Triple) -> Float64Array:
        """Return the extents of all cases in voxels at `spacing`; float64 (C, 3)."""
        return np.asarray(self.case_shape * self.case_spacing / np.asarray(spacing), dtype=np.float64)


def cohort_of(cases: Sequence[CaseSample], lesions: Sequence[LesionSample], *, label: int) -> Cohort:
    """Gather the lesions of one label into columns.

    Args:
        cases: All accepted cases, with or without lesions.
        lesions: Lesions of any label.
        label: The label to plan for.

    Raises:
        DataError: A lesion belongs to a case that is not among `cases`, or a volume or spacing is not positive and
            finite.

    Example:
        >>> case = CaseSample("a", "a", (1.0, 1.0, 2.0), (64, 64, 32))
        >>> cohort = cohort_of([case], [LesionSample("a", 1, 1000.0, (10.0, 10.0, 10.0))], label=1)
        >>> cohort.voxels(None).tolist()
        [500.0]
    """
    by_id = {case.case_id: case for case in cases}
    chosen = [lesion for lesion in lesions if lesion.label == label]
    for lesion in chosen:
        if lesion.case_id not in by_id:
            raise DataError("has lesions but is not among the accepted cases", case_id=lesion.case_id)
        if not (np.isfinite(lesion.volume_mm3) and lesion.volume_mm3 > 0):
            raise DataError(f"lesion volume {lesion.volume_mm3} mm³ is not positive", case_id=lesion.case_id)
    for case in cases:
        if not (np.all(np.isfinite(case.spacing)) and min(case.spacing) > 0 and min(case.shape) > 0):
            raise DataError(
                f"spacing {case.spacing} or shape {case.shape} is not positive and finite",
                case_id=case.case_id,
            )
    patients = {p: i for i, p in enumerate(dict.fromkeys(by_id[x.case_id].patient for x in chosen))}
    return Cohort(
        volume_mm3=np.array([x.volume_mm3 for x in chosen], dtype=np.float64),
        extent_mm=np.array([x.extent_mm for x in chosen], dtype=np.float64).reshape(-1, 3),
        own_spacing=np.array([by_id[x.case_id].spacing for x in chosen], dtype=np.float64).reshape(-1, 3),
        patient=np.array([patients[by_id[x.case_id].patient] for x in chosen], dtype=np.int64),
        patient_count=len(patients),
        case_spacing=np.array([c.spacing for c in cases], dtype=np.float64).reshape(-1, 3),
        case_shape=np.array([c.shape for c in cases], dtype=np.int64).reshape(-1, 3),
    )


def samples_of(fingerprint: Fingerprint) -> tuple[list[CaseSample], list[LesionSample]]:
    """Return the cases and lesions of a fingerprint as records for planning."""
    cases = [CaseSample(case.case_id, case.patient, case.spacing, case.shape) for case in fingerprint.cases]
    lesions = [
        LesionSample(case.case_id, lesion.label, lesion.volume_mm3, lesion.extent_mm)
        for case in fingerprint.cases
        for lesion in case.lesions
    ]
    return cases, lesions


@dataclass(frozen=True)
class Learned:
    """What trainings of a study have shown about patch sizes.

    Attributes:
        patch_size: The patch size with the best mean DSC.
        source: The trainings, in words.
        dsc: Patch size → mean validation DSC.
    """

    patch_size: IntTriple
    source: str
    dsc: Mapping[IntTriple, float]


FindLearned: TypeAlias = Callable[[Triple, int], Learned | None]
"""Returns what trainings at a spacing [mm] have shown for the lesions of a label; None if there were none."""
