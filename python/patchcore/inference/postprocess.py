"""Removes predicted lesions that a tuning found to be false: faint, small, or outside the organ. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from patchcore.config.plan import TargetPlan
from patchcore.config.postprocess import Postprocess
from patchcore.errors import ConfigError
from patchcore.inference.segment import PROBABILITY_STEPS, lesion_mask
from patchcore.lesions.measure import LesionSpans, lesion_spans
from patchcore.lesions.spans import highest, lesion_at, span_places
from patchcore.types import BoolArray, Float64Array

__all__ = ["Removed", "inside_organ", "lesion_peaks", "postprocess"]


_LEAST_PIECE = 0.1


@dataclass(frozen=True)
class Removed:
    """What was removed from a prediction.

    Attributes:
        outside: Number of lesions outside the organ.
        faint: Number of other lesions that do not reach the least probability.
        small: Number of other lesions below the least volume.
    """

    outside: int = 0
    faint: int = 0
    small: int = 0

    def __str__(self) -> str:
        parts = [f"{self.outside} outside the organ"] if self.outside else []
        parts += [f"{self.faint} of low probability"] if self.faint else []
        parts += [f"{self.small} below the least volume"] if self.small else []
        return ", ".join(parts) or "none"


def postprocess(
    classes: npt.NDArray[np.uint8],
    target: TargetPlan,
    settings: Postprocess,
    *,
    voxel_mm3: float,
    probability: npt.NDArray[np.uint16] | None = None,
) -> Removed:
    """Remove lesions from a map of class indices, in place. The threshold has been applied before.

    A removed lesion takes the class that is most common among its neighbours: in an organ it becomes organ.

    Args:
        classes: uint8 class indices, (X, Y, Z).
        target: The plan.
        settings: What to remove.
        voxel_mm3: Volume of a voxel [mm³].
        probability: The probability of a lesion times 65535; needed if lesions have to reach one.

    Raises:
        ConfigError: The probability is missing, or the plan has no class of the organ's label.
    """
    mask = lesion_mask(classes, target)
    spans = lesion_spans(mask, connectivity=target.connectivity)
    if not spans.lesion_count:
        return Removed()
    # The same comparison as everywhere: a lesion of exactly this volume is kept.
    small = spans.voxel_count * voxel_mm3 < settings.min_volume_mm3
    outside = np.zeros(spans.lesion_count, dtype=np.bool_)
    if settings.organ_label is not None:
        if settings.organ_label not in target.classes:
            raise ConfigError(
                f"the plan has no class {settings.organ_label}", expected=target.classes, remedy="run patchcore tune"
            )
        outside = ~inside_organ(classes == target.classes.index(settings.organ_label) + 1, mask, spans)
    faint = np.zeros(spans.lesion_count, dtype=np.bool_)
    if settings.min_peak is not None:
        if probability is None:
            raise ConfigError("the post-processing needs the probability of a lesion", remedy="keep it")
        faint = lesion_peaks(spans, probability) < settings.min_peak
    for number in np.flatnonzero(small | outside | faint):
        _replace(classes, spans, int(number))
    return Removed(
        outside=int(outside.sum()),
        faint=int((faint & ~outside).sum()),
        small=int((small & ~outside & ~faint).sum()),
    )


def lesion_peaks(spans: LesionSpans, probability: npt.NDArray[np.uint16]) -> Float64Array:
    """Return the highest probability within each lesion, from steps of 1/65535."""
    return np.asarray(highest(spans, probability) / PROBABILITY_STEPS, dtype=np.float64)


def inside_organ(organ: BoolArray, lesions: BoolArray, spans: LesionSpans) -> BoolArray:
    """Return which lesions are connected with the organ: with its largest piece, or one of at least a tenth of it.

    The second kidney is organ, too; a few voxels of organ elsewhere are not.

    Args:
        organ: Which voxels are organ.
        lesions: Which voxels are lesion.
        spans: The lesions.

    Example:
        >>> row = np.array([1, 1, 1, 2, 1, 0, 2, 0, 2, 1], np.uint8).reshape(10, 1, 1)
        >>> inside_organ(row == 1, row == 2, lesion_spans(row == 2)).tolist()
        [True, False, True]
    """
    both = lesion_spans(organ | lesions, connectivity=26)
    own = np.zeros(both.lesion_count, dtype=np.int64)
    for piece, place in span_places(both):
        own[piece] += np.count_nonzero(organ[place])
    counts = own >= max(1.0, _LEAST_PIECE * own.max(initial=0))
    first = np.searchsorted(spans.lesion, np.arange(spans.lesion_count))
    inside: BoolArray = counts[lesion_at(both, spans.origin[first].astype(np.int64), organ.shape)]
    return inside


def _replace(classes: npt.NDArray[np.uint8], spans: LesionSpans, number: int) -> None:
    """Give a lesion the class that is most common among its neighbours."""
    places = [place for _, place in span_places(spans, number)]
    start = [max(0, min(place[axis].start for place in places) - 1) for axis in range(3)]
    stop = [max(place[axis].stop for place in places) + 1 for axis in range(3)]
    part = classes[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    mask = np.zeros(part.shape, dtype=np.bool_)
    for place in places:
        a, b, c = (slice(p.start - s, p.stop - s) for p, s in zip(place, start, strict=True))
        mask[a, b, c] = True
    around = part[ndimage.binary_dilation(mask) & ~mask]
    part[mask] = np.bincount(around).argmax() if len(around) else 0
