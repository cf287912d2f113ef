"""Counts which true lesions were found and which predicted components are false. Uses NumPy only.

A lesion is found if at least one of its voxels is predicted. A predicted component is true if at least one of its
voxels is lesion. Components of both masks are formed with the plan's connectivity. A predicted component smaller than
the minimum volume does not exist: it is no false positive and it finds no lesion. Over all cases together, recall is
found lesions divided by all lesions, and precision is true components divided by all predicted components. For recall,
the size bin is chosen by the equivalent diameter of the true lesion; for precision, by the one of the predicted
component. If the divisor is 0, the value is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from patchcore.errors import ShapeMismatchError
from patchcore.lesions.measure import LesionSpans, lesion_spans
from patchcore.lesions.size_bins import SIZE_BIN_NAMES, size_bin
from patchcore.lesions.spans import span_places
from patchcore.types import AnyArray, BoolArray

_VOXELS_AT_ONCE = 4 << 20

__all__ = ["LesionMatch", "LesionScore", "lesion_score", "match_lesions"]


@dataclass(frozen=True)
class LesionMatch:
    """True lesions and predicted components of one case.

    Attributes:
        true_mm3: Volume of each true lesion.
        covered_share: Share of each true lesion that was predicted.
        predicted_mm3: Volume of each predicted component.
        overlap_share: Share of each predicted component that is lesion.
    """

    true_mm3: tuple[float, ...]
    covered_share: tuple[float, ...]
    predicted_mm3: tuple[float, ...]
    overlap_share: tuple[float, ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Sequence[float]]) -> LesionMatch:
        """Return the match whose :func:`dataclasses.asdict` was written as JSON."""
        return cls(**{name: tuple(part) for name, part in value.items()})

    @property
    def found(self) -> int:
        """Number of true lesions with at least one predicted voxel."""
        return sum(share > 0 for share in self.covered_share)

    @property
    def false_positives(self) -> int:
        """Number of predicted components without a lesion voxel."""
        return sum(share == 0 for share in self.overlap_share)


def match_lesions(
    prediction: BoolArray,
    truth: BoolArray,
    *,
    voxel_mm3: float,
    connectivity: int = 26,
    min_volume_mm3: float = 0.0,
    true_spans: LesionSpans | None = None,
) -> LesionMatch:
    """Match the components of a predicted mask with the components of a true mask.

    Args:
        prediction: Mask (X, Y, Z).
        truth: Mask of the same shape.
        voxel_mm3: Volume of a voxel [mm³].
        connectivity: 6, 18 or 26.
        min_volume_mm3: Components of both masks smaller than this are excluded [mm³]. An excluded predicted component
            finds no lesion. A predicted component that overlaps only excluded lesions does not count as false.
        true_spans: The lesions of `truth`, if they are already known. None of them is excluded.

    Raises:
        ShapeMismatchError: The shapes differ.

    Example:
        >>> truth = np.zeros((8, 8, 8), bool)
        >>> truth[1:3, 1:3, 1:3] = truth[6, 6, 6] = True
        >>> match = match_lesions(np.roll(truth, 1, axis=0), truth, voxel_mm3=1.0)
        >>> match.covered_share, match.false_positives
        ((0.5, 0.0), 1)
    """
    if prediction.shape != truth.shape:
        raise ShapeMismatchError(
            f"prediction shape {prediction.shape} does not match label shape {truth.shape}",
            found=prediction.shape,
            expected=truth.shape,
        )
    smallest_mm3 = min_volume_mm3 if true_spans is None else 0.0
    if true_spans is None:
        true_spans = lesion_spans(truth, connectivity=connectivity)
    predicted = lesion_spans(prediction, connectivity=connectivity)
    predicted_mm3, overlap = _shares(predicted, truth, voxel_mm3, min_volume_mm3)
    if len(predicted_mm3) < predicted.lesion_count:
        prediction = _painted(predicted, predicted.voxel_count * voxel_mm3 >= min_volume_mm3, truth.shape)
    true_mm3, covered = _shares(true_spans, prediction, voxel_mm3, smallest_mm3)
    return LesionMatch(true_mm3, covered, predicted_mm3, overlap)


def _painted(spans: LesionSpans, kept: BoolArray, shape: tuple[int, ...]) -> BoolArray:
    """Return the mask of the kept components."""
    mask = np.zeros(shape, dtype=np.bool_)
    for _, place in span_places(spans.kept(kept)):
        mask[place] = True
    return mask


def _shares(
    spans: LesionSpans, mask: BoolArray, voxel_mm3: float, min_volume_mm3: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the volume of each component, and its share inside a mask."""
    if not spans.lesion_count:
        return (), ()
    mask, hits = np.asarray(mask), np.zeros(spans.lesion_count)
    # Process a few million voxels at a time: an untrained network may predict half of a scan.
    ends = np.cumsum(spans.length.astype(np.int64))
    cuts = np.searchsorted(ends, np.arange(0, ends[-1], _VOXELS_AT_ONCE)[1:], side="left") + 1
    for low, high in zip((0, *cuts), (*cuts, len(ends)), strict=True):
        lengths = spans.length[low:high].astype(np.int64)
        voxels = np.repeat(spans.origin[low:high].astype(np.int64), lengths, axis=0)
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        voxels[:, spans.axis] += np.arange(len(voxels)) - starts
        inside = mask[voxels[:, 0], voxels[:, 1], voxels[:, 2]] != 0
        hits += np.bincount(np.repeat(spans.lesion[low:high], lengths), weights=inside, minlength=len(hits))
    count = np.asarray(spans.voxel_count, dtype=np.float64)
    kept = count * voxel_mm3 >= min_volume_mm3
    return tuple((count * voxel_mm3)[kept].tolist()), tuple((hits / count)[kept].tolist())


@dataclass(frozen=True)
class LesionScore:
    """Recall and precision over the lesions of a cohort, or of one size bin.

    Attributes:
        lesions: Number of true lesions.
        found: Number of true lesions that were found.
        predicted: Number of predicted components.
        true: Number of predicted components that overlap a lesion.
    """

    lesions: int = 0
    found: int = 0
    predicted: int = 0
    true: int = 0

    @property
    def recall(self) -> float:
        """Found lesions divided by all lesions; NaN if there are no lesions."""
        return self.found / self.lesions if self.lesions else math.nan

    @property
    def precision(self) -> float:
        """True components divided by all predicted components; NaN if nothing was predicted."""
        return self.true / self.predicted if self.predicted else math.nan


def lesion_score(matches: Iterable[LesionMatch]) -> tuple[LesionScore, tuple[LesionScore, ...]]:
    """Return the score of a cohort, and the score of each size bin."""
    bins = len(SIZE_BIN_NAMES)
    table = np.zeros((bins, 4), np.int64)
    for match in matches:
        _count(table[:, :2], match.true_mm3, match.covered_share)
        _count(table[:, 2:], match.predicted_mm3, match.overlap_share)
    return LesionScore(*table.sum(0).tolist()), tuple(LesionScore(*row) for row in table.tolist())


def _count(table: AnyArray, volumes_mm3: Sequence[float], shares: Sequence[float]) -> None:
    for volume, share in zip(volumes_mm3, shares, strict=True):
        table[size_bin(volume)] += (1, share > 0)
