"""A line plot widget: several curves over steps, drawn with braille dots in O(width × height) per repaint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from patchcore.tui.drawing import Cell, Drawing, put
from patchcore.tui.text import count, number
from patchcore.tui.ticks import axis_range, tick_labels, ticks
from patchcore.views.terminal import plain

if TYPE_CHECKING:
    from patchcore.types import Float64Array

__all__ = ["COLOURS", "Curve", "Plot"]

COLOURS = 6
"""Number of the colours that curves can have."""


@dataclass(frozen=True)
class Curve:
    """One curve of a plot.

    Attributes:
        label: Name in the legend.
        steps: float64, shape (N,).
        values: float64, shape (N,); NaN breaks the line.
        colour: Number of the plot colour, from 1 to 6.
        markers: Whether to mark the points if there are few.
    """

    label: str
    steps: Float64Array
    values: Float64Array
    colour: int = 1
    markers: bool = False


class Plot(Drawing):
    """Curves with a value axis, a step axis and a legend that shows the last value of each curve.

    Args:
        title: What is plotted.
        floor: A value that the value axis always includes, e.g. 0.
        id: The widget's id.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "plot--title",
        "plot--axis",
        *(f"plot--{part}-{number}" for part in ("band", "curve") for number in range(1, 1 + COLOURS)),
    }

    def __init__(self, title: str, *, floor: float | None = None, id: str | None = None) -> None:
        super().__init__(id=id)
        self._title = title
        self._floor = floor
        self._curves: tuple[Curve, ...] = ()

    def show(self, curves: Sequence[Curve]) -> None:
        """Draw these curves from now on. Later curves lie on top. The legend is sorted by colour number."""
        self._curves = tuple(curves)
        self.redraw()

    def draw(self, width: int, height: int) -> list[list[Cell]]:
        """Return the cells of the plot at this size."""
        rows: list[list[Cell]] = [[(" ", "")] * width for _ in range(height)]
        if height < 1 or width < 1:
            return rows
        self._draw_legend(rows[0])
        lines = height - 3  # one row for the legend, two for the step axis and its labels
        if lines < 1 or width < 16:
            return rows
        values_seen = [curve for curve in self._curves if len(curve.steps)]
        extent = _extent(values_seen)
        if extent is None:
            put(rows[1 + lines // 2], (width - 13) // 2, "no values yet", "plot--axis")
            return rows
        last, low, high = extent
        first = 0.0
        if self._floor is not None:
            low, high = min(low, self._floor), max(high, self._floor)
        bottom, top, step = axis_range(low, high, max(1, min(6, (lines - 1) // 2)))
        marks = ticks(bottom, top, step)
        labels = tick_labels(marks, step)
        gutter = max(map(len, labels)) + 2
        cells = width - gutter
        if cells < 4:
            return rows
        for mark, label in zip(marks, labels, strict=True):
            row = 1 + round((top - mark) / (top - bottom) * (lines - 1))
            put(rows[row], gutter - 2 - len(label), label, "plot--axis")
        axis_rows = {1 + round((top - mark) / (top - bottom) * (lines - 1)) for mark in marks}
        for row in range(1, lines + 1):
            rows[row][gutter - 1] = ("┤" if row in axis_rows else "│", "plot--axis")
        stop = last if last > first else first + 1
        _draw_steps(rows[lines + 1], rows[lines + 2], gutter, first, stop)
        for curve in values_seen:
            _draw_curve(rows[1 : lines + 1], gutter, curve, (first, stop), (bottom, top))
        return rows

    def _draw_legend(self, row: list[Cell]) -> None:
        at = put(row, 0, self._title, "plot--title") + 2
        for curve in sorted(self._curves, key=lambda curve: curve.colour):
            colour = f"plot--curve-{curve.colour}"
            last = _last_finite(curve.values)
            at = put(row, at, "━ ", colour)
            at = put(row, at, plain(curve.label, 30), "plot--axis")
            at = put(row, at, f" {number(last)}", colour) + 2


def _last_finite(values: Float64Array) -> float | None:
    for value in values[:-200:-1]:
        if value == value:
            return float(value)
    return None


def _extent(curves: Sequence[Curve]) -> tuple[float, float, float] | None:
    """Return the last step, the smallest and the largest value; None if no value is finite."""
    if not curves:
        return None
    import numpy as np

    found = []
    for curve in curves:
        good = np.isfinite(curve.values)
        if good.any():
            steps, values = curve.steps[good], curve.values[good]
            found.append((steps.max(), values.min(), values.max()))
    if not found:
        return None
    last, low, high = zip(*found, strict=True)
    return float(max(last)), float(min(low)), float(max(high))


def _draw_steps(axis: list[Cell], labels: list[Cell], gutter: int, first: float, last: float) -> None:
    width = len(axis)
    put(axis, gutter - 1, "└" + "─" * (width - gutter), "plot--axis")
    cells = width - gutter
    _, _, step = axis_range(first, last, max(1, min(8, cells // 9)))
    step = max(1.0, step)
    taken = gutter - 1
    for mark in ticks(first, last, step):
        at = gutter + round((mark - first) / (last - first) * (cells - 1))
        text = count(mark)
        left = at - len(text) // 2
        if left > taken and left + len(text) < width - 5:
            axis[at] = ("┴", "plot--axis")
            taken = put(labels, left, text, "plot--axis")
    put(labels, width - 4, "step", "plot--axis")


def _draw_curve(
    rows: list[list[Cell]],
    gutter: int,
    curve: Curve,
    steps: tuple[float, float],
    values: tuple[float, float],
) -> None:
    from patchcore.tui.braille import decimate, dots, encode

    lines, cells = len(rows), len(rows[0]) - gutter
    trace = decimate(curve.steps, curve.values, start=steps[0], stop=steps[1], columns=2 * cells)
    bottom, top = values
    layers = [(trace.mean_low, trace.mean_high, f"plot--curve-{curve.colour}")]
    if trace.dense:
        layers.insert(0, (trace.low, trace.high, f"plot--band-{curve.colour}"))
    for low, high, component in layers:
        codes = encode(dots(low, high, bottom=bottom, top=top, rows=4 * lines))
        for line, cell in zip(*codes.nonzero(), strict=True):
            rows[line][gutter + cell] = (chr(0x2800 + int(codes[line, cell])), component)
    used = (trace.points == trace.points).nonzero()[0]
    if len(used) == 1 or (curve.markers and len(used) <= cells // 2):
        for column in used:
            place = (top - float(trace.points[column])) / (top - bottom) * (4 * lines - 1)
            rows[round(place) // 4][gutter + int(column) // 2] = ("•", f"plot--curve-{curve.colour}")
