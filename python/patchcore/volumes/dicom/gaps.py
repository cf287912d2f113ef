"""Finds slices between drawn ones on which a lesion has no contour, lesion by lesion."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.lesions.measure import label_components
from patchcore.types import BoolArray
from patchcore.volumes.dicom.contours import Region

__all__ = ["Gap", "find_gaps"]

# Drawn slices farther apart than this, in slices, are not linked: they are two lesions.
_FAR = 8

_Node = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Gap:
    """Two drawn parts of one lesion with slices without contour between them.

    Attributes:
        below: Slice of the lower part.
        above: Slice of the upper part.
        usual: Usual distance between the drawn slices of this lesion, in slices.
        links: Number of distances that `usual` is the median of.
        parts: The lower and the upper part on a common part of the plane, shape (rows, columns).
        low: First column and row of that part of the plane.
    """

    below: int
    above: int
    usual: float
    links: int
    parts: tuple[BoolArray, BoolArray]
    low: tuple[int, int]

    @property
    def missing(self) -> range:
        """The slices without contour."""
        return range(self.below + 1, self.above)


def find_gaps(drawn: Mapping[int, Region]) -> list[Gap]:
    """Return the gaps between parts that overlap in the plane, with no overlapping part on the slices between them.

    Parts that are linked in this way, over any number of slices, are one lesion.
    """
    order = sorted(drawn)
    if len(order) < 2:
        return []
    canvas = _Canvas(drawn)
    links: list[tuple[_Node, _Node]] = []
    masks: dict[_Node, BoolArray] = {}
    for place, below in enumerate(order):
        lower = canvas.labels(below)
        pending = set(range(1, int(lower.max(initial=0)) + 1))
        for above in order[place + 1 :]:
            if above - below > _FAR or not pending:
                break
            upper = canvas.labels(above)
            both = (lower > 0) & (upper > 0)
            size = int(upper.max(initial=0)) + 1
            pairs = [
                divmod(code, size) for code in np.unique(lower[both].astype(np.int64) * size + upper[both]).tolist()
            ]
            for one, other in pairs:
                if one in pending:
                    links.append(((below, one), (above, other)))
                    if above - below > 1:
                        masks[below, one], masks[above, other] = lower == one, upper == other
            pending -= {one for one, _ in pairs}
        canvas.forget(below)
    return _gaps(links, masks, canvas.low)


def _gaps(links: list[tuple[_Node, _Node]], masks: Mapping[_Node, BoolArray], low: tuple[int, int]) -> list[Gap]:
    chain: dict[_Node, _Node] = {}

    def root(node: _Node) -> _Node:
        while chain.setdefault(node, node) != node:
            node = chain[node]
        return node

    for one, other in links:
        chain[root(other)] = root(one)
    steps: dict[_Node, list[int]] = defaultdict(list)
    for one, other in links:
        steps[root(one)].append(other[0] - one[0])
    return [
        Gap(
            one[0],
            other[0],
            float(median(steps[root(one)])),
            len(steps[root(one)]),
            (masks[one], masks[other]),
            low,
        )
        for one, other in links
        if other[0] - one[0] > 1
    ]


class _Canvas:
    """Numbers the connected parts of each drawn slice, on the part of the plane that holds all of them."""

    def __init__(self, drawn: Mapping[int, Region]) -> None:
        self._drawn = drawn
        low = np.min([region.low for region in drawn.values()], axis=0)
        high = np.max([np.asarray(region.low) + region.shape[::-1] for region in drawn.values()], axis=0)
        self.low = (int(low[0]), int(low[1]))
        self._shape = (int(high[1] - low[1]), int(high[0] - low[0]))
        self._known: dict[int, npt.NDArray[Any]] = {}

    def labels(self, index: int) -> npt.NDArray[Any]:
        """Return the numbers of the parts on a slice, shape (rows, columns); 0 is outside."""
        if index not in self._known:
            region = self._drawn[index]
            numbers = np.zeros(self._shape, dtype=np.int32)
            x, y = region.low[0] - self.low[0], region.low[1] - self.low[1]
            found = label_components(region.mask()[None].view(np.uint8), connectivity=26)[0]
            numbers[y : y + region.shape[0], x : x + region.shape[1]] = found
            self._known[index] = numbers
        return self._known[index]

    def forget(self, index: int) -> None:
        """Free the memory of a slice."""
        self._known.pop(index, None)
