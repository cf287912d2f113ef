"""A histogram widget for lesion volumes on a log axis, with a line at the volume of each candidate patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from patchcore.tui.drawing import Cell, Drawing, put
from patchcore.tui.text import count

if TYPE_CHECKING:
    from patchcore.types import Float64Array

__all__ = ["Histogram", "Mark"]

_EIGHTHS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Mark:
    """A vertical line in the histogram at a given volume.

    Attributes:
        label: Text above the line.
        volume_mm3: Position of the line, mm³.
        chosen: Whether the plan chose this patch size.
    """

    label: str
    volume_mm3: float
    chosen: bool = False


class Histogram(Drawing):
    """Numbers of lesions by volume; log axis in mm³.

    Args:
        id: The widget's id.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "histogram--axis",
        "histogram--bar",
        "histogram--mark",
        "histogram--chosen",
    }

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._volumes: Float64Array | None = None
        self._marks: tuple[Mark, ...] = ()

    def show(self, volumes_mm3: Float64Array, marks: Sequence[Mark]) -> None:
        """Draw these volumes from now on.

        Args:
            volumes_mm3: float64, shape (N,), mm³. Values that are not positive and finite are excluded.
            marks: Vertical lines to draw.
        """
        self._volumes, self._marks = volumes_mm3, tuple(marks)
        self.redraw()

    def draw(self, width: int, height: int) -> list[list[Cell]]:
        """Return the cells of the histogram at this size."""
        return _draw(self._volumes, self._marks, width, height)


def _draw(volumes: Float64Array | None, marks: Sequence[Mark], width: int, height: int) -> list[list[Cell]]:
    import numpy as np

    rows: list[list[Cell]] = [[(" ", "")] * width for _ in range(height)]
    lines, gutter = height - 4, 6  # labels of the marks above; axis, axis labels and unit below
    cells = width - gutter - 1
    if lines < 1 or cells < 10:
        return rows
    kept = np.empty(0) if volumes is None else volumes[np.isfinite(volumes) & (volumes > 0)]
    places = [mark.volume_mm3 for mark in marks if mark.volume_mm3 > 0]
    if not len(kept):
        put(rows[height // 2], max(0, (width - 10) // 2), "no lesions", "histogram--axis")
        return rows
    logs = np.log10(kept)
    low = np.floor(2 * min(logs.min(), *np.log10(places), np.inf)) / 2
    high = np.ceil(2 * max(logs.max(), *np.log10(places), -np.inf)) / 2
    high = max(high, low + 1)
    bar = max(1, round(cells / min(60, max(12, 2 * len(kept) ** 0.5))))
    bins = cells // bar
    counts = np.histogram(logs, bins=bins, range=(low, high))[0]
    span = bins * bar
    peak = int(counts.max())
    for position, lesions in enumerate(counts):
        eighths = int(np.ceil(lesions / peak * 8 * lines)) if lesions else 0
        for line in range(lines):
            fill = min(8, max(0, eighths - 8 * (lines - 1 - line)))
            if fill:
                put(rows[1 + line], gutter + position * bar, _EIGHTHS[fill] * bar, "histogram--bar")
    for line in range(1, lines + 1):
        rows[line][gutter - 1] = ("│", "histogram--axis")
    for line, value in ((1, peak), (lines, 0)) if lines > 1 else ((1, peak),):
        text = count(value)
        put(rows[line], gutter - 1 - len(text), text, "histogram--axis")
        rows[line][gutter - 1] = ("┤", "histogram--axis")
    put(rows[lines + 1], gutter - 1, "└" + "─" * span, "histogram--axis")
    taken = gutter - 2
    for decade in range(int(np.ceil(low)), int(np.floor(high)) + 1):
        at = gutter + round((decade - low) / (high - low) * (span - 1))
        text = count(10.0**decade) if decade >= 0 else f"{10.0**decade:g}"
        left = min(at - len(text) // 2, width - len(text))
        if left > taken:
            rows[lines + 1][at] = ("┴", "histogram--axis")
            taken = put(rows[lines + 2], left, text, "histogram--axis")
    put(rows[lines + 3], gutter, f"lesion volume [mm³] · {len(kept)} lesions", "histogram--axis")
    taken = -1
    for mark in sorted(marks, key=lambda item: (not item.chosen, item.volume_mm3)):
        if not mark.volume_mm3 > 0:
            continue
        at = gutter + round((np.log10(mark.volume_mm3) - low) / (high - low) * (span - 1))
        component = "histogram--chosen" if mark.chosen else "histogram--mark"
        for line in range(1, lines + 1):
            rows[line][at] = ("┃" if mark.chosen else "╎", component)
        left = max(0, min(at - len(mark.label) // 2, width - len(mark.label)))
        room = rows[0][max(0, left - 1) : left + len(mark.label) + 1]
        if all(char == " " for char, _ in room):
            put(rows[0], left, mark.label, component)
    return rows
