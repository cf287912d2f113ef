"""Works with lesions as spans: where they lie, which lesion a voxel belongs to, the highest value within each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.lesions.measure import LesionSpans
from patchcore.types import Int64Array

__all__ = ["highest", "lesion_at", "span_places"]

Place = tuple[slice, slice, slice]


def span_places(spans: LesionSpans, lesion: int | None = None) -> Iterator[tuple[int, Place]]:
    """Yield (lesion, place) of each span, or of those of one lesion.

    Example:
        >>> from patchcore.lesions.measure import lesion_spans
        >>> mask = np.zeros((3, 3, 4), bool)
        >>> mask[1, 2, 1:3] = True
        >>> list(span_places(lesion_spans(mask)))
        [(0, (slice(1, 2, None), slice(2, 3, None), slice(1, 3, None)))]
    """
    rows = slice(None)
    if lesion is not None:
        low, high = np.searchsorted(spans.lesion, [lesion, lesion + 1])
        rows = slice(int(low), int(high))
    columns = (spans.lesion[rows].tolist(), spans.origin[rows].tolist(), spans.length[rows].tolist())
    for number, origin, length in zip(*columns, strict=True):
        sizes = [1, 1, 1]
        sizes[spans.axis] = length
        a, b, c = (slice(start, start + size) for start, size in zip(origin, sizes, strict=True))
        yield number, (a, b, c)


def highest(spans: LesionSpans, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the highest value within each lesion, in the dtype of `values`.

    Example:
        >>> from patchcore.lesions.measure import lesion_spans
        >>> mask = np.array([1, 1, 0, 1], bool).reshape(4, 1, 1)
        >>> highest(lesion_spans(mask), np.array([3, 7, 99, 5]).reshape(4, 1, 1)).tolist()
        [7, 5]
    """
    seen = np.zeros(spans.lesion_count, dtype=np.bool_)
    found = np.zeros(spans.lesion_count, dtype=values.dtype)
    for lesion, place in span_places(spans):
        value = values[place].max()
        found[lesion] = max(found[lesion], value) if seen[lesion] else value
        seen[lesion] = True
    return found


def lesion_at(spans: LesionSpans, voxels: Int64Array, shape: tuple[int, ...]) -> Int64Array:
    """Return the lesion of voxels, shape (n, 3), each of which lies in a span of an array of this shape.

    Example:
        >>> from patchcore.lesions.measure import lesion_spans
        >>> mask = np.array([1, 1, 0, 1], bool).reshape(4, 1, 1)
        >>> lesion_at(lesion_spans(mask), np.array([[3, 0, 0], [1, 0, 0]]), mask.shape).tolist()
        [1, 0]
    """
    others = [axis for axis in range(3) if axis != spans.axis]

    def key(voxel: npt.NDArray[Any]) -> Int64Array:
        wide = voxel.astype(np.int64)
        line = wide[:, others[0]] * shape[others[1]] + wide[:, others[1]]
        return np.asarray(line * shape[spans.axis] + wide[:, spans.axis])

    starts = key(spans.origin)
    order = np.argsort(starts)
    found = np.searchsorted(starts[order], key(voxels), side="right") - 1
    return np.asarray(spans.lesion[order[found]], dtype=np.int64)
