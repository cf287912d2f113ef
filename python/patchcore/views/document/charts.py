"""Draws charts as SVG text: values with intervals, curves, and two quantities against each other.

Text and axes have the colour of the page; marks have colours that people with colour blindness can separate, on light
and dark pages (Okabe and Ito, Color Universal Design, 2008), and different shapes of lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

__all__ = ["Bar", "Curve", "Dot", "dot_chart", "line_chart", "scatter_chart"]

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
_WIDTH = 640


@dataclass(frozen=True)
class Bar:
    """A value with its interval.

    Attributes:
        label: Its name.
        value: The value.
        low: Lower end of its interval; NaN: none.
        high: Upper end.
        marked: Whether it stands out.
        group: Values of one group have one colour.
    """

    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    marked: bool = False
    group: int = 0


@dataclass(frozen=True)
class Curve:
    """A curve: its name, and its points in order of x."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Dot:
    """A point of a scatter chart; `best`: no other point is better in both quantities."""

    label: str
    x: float
    y: float
    best: bool = False


def dot_chart(bars: Sequence[Bar], title: str, *, zero: bool = False) -> str:
    """Draw values as dots with their intervals, one row each.

    Args:
        bars: The values.
        title: What they are, for the axis.
        zero: Whether to draw a line at 0.

    Example:
        >>> dot_chart([Bar("patch 8", 0.7, 0.6, 0.8)], "mean DSC").startswith("<svg")
        True
    """
    numbers = [v for bar in bars for v in (bar.value, bar.low, bar.high) if math.isfinite(v)] + [0.0] * zero
    left = 20 + 7 * max((len(bar.label) for bar in bars), default=0)
    axis = _Axis(numbers or [0.0, 1.0], left, _WIDTH - 60)
    height = 24 * len(bars) + 46
    floor = height - 40
    marks = [axis.bottom(floor, title, grid_to=4)]
    if zero:
        at = axis.at(0.0)
        marks.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="4" y2="{floor}" stroke="currentColor" stroke-width="1.4"/>'
        )
    for place, bar in enumerate(bars):
        y = 18 + 24 * place
        colour = _COLOURS[bar.group % len(_COLOURS)]
        marks.append(_text(left - 8, y + 4, bar.label, "end", bold=bar.marked))
        if not math.isfinite(bar.value):
            marks.append(_text(axis.low_px + 4, y + 4, "not known", "start"))
            continue
        if math.isfinite(bar.low) and math.isfinite(bar.high):
            marks.append(
                f'<line x1="{axis.at(bar.low):.1f}" x2="{axis.at(bar.high):.1f}" y1="{y}" y2="{y}" stroke="{colour}" '
                'stroke-width="2.5"/>'
            )
        radius = 6 if bar.marked else 4.5
        marks.append(f'<circle cx="{axis.at(bar.value):.1f}" cy="{y}" r="{radius}" fill="{colour}"/>')
        marks.append(_text(_WIDTH - 4, y + 4, f"{bar.value:.3f}", "end", bold=bar.marked))
    return _svg(marks, height, title)


def line_chart(curves: Sequence[Curve], x_title: str, y_title: str) -> str:
    """Draw curves, with a legend.

    Example:
        >>> "polyline" in line_chart([Curve("patch 8", (0, 1), (0.1, 0.6))], "step", "DSC")
        True
    """
    xs = [x for curve in curves for x in curve.x if math.isfinite(x)] or [0.0, 1.0]
    ys = [y for curve in curves for y in curve.y if math.isfinite(y)] or [0.0, 1.0]
    legend = 18 * len(curves)
    height, floor = 300 + legend, 250
    across, up = _Axis(xs, 52, _WIDTH - 14), _Axis(ys, floor, 10)
    marks = [across.bottom(floor, x_title), up.side(52, _WIDTH - 14, y_title)]
    for number, curve in enumerate(curves):
        colour, dash = _COLOURS[number % len(_COLOURS)], _DASHES[number // len(_COLOURS) % len(_DASHES)]
        points = " ".join(
            f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in zip(curve.x, curve.y, strict=True) if math.isfinite(y)
        )
        style = f'stroke="{colour}" stroke-width="2" fill="none"' + (f' stroke-dasharray="{dash}"' if dash else "")
        marks.append(f'<polyline points="{points}" {style}/>')
        y = 306 + 18 * number
        marks.append(f'<line x1="52" x2="80" y1="{y - 4}" y2="{y - 4}" {style}/>')
        marks.append(_text(88, y, curve.label, "start"))
    return _svg(marks, height + 6, f"{y_title} by {x_title}")


def scatter_chart(dots: Sequence[Dot], x_title: str, y_title: str) -> str:
    """Draw points; the best ones (the Pareto front) are filled and joined by a line.

    Example:
        >>> "circle" in scatter_chart([Dot("patch 8", 2.0, 0.7, best=True)], "hours", "DSC")
        True
    """
    known = [dot for dot in dots if math.isfinite(dot.x) and math.isfinite(dot.y)]
    floor, height = 250, 296
    across = _Axis([dot.x for dot in known] or [0.0, 1.0], 60, _WIDTH - 90)
    up = _Axis([dot.y for dot in known] or [0.0, 1.0], floor, 14)
    marks = [across.bottom(floor, x_title), up.side(60, _WIDTH - 14, y_title)]
    front = sorted((dot.x, dot.y) for dot in known if dot.best)
    if len(front) > 1:
        points = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in front)
        marks.append(f'<polyline points="{points}" stroke="{_COLOURS[0]}" stroke-width="1.5" fill="none"/>')
    for dot in known:
        fill = _COLOURS[0] if dot.best else "none"
        x, y = across.at(dot.x), up.at(dot.y)
        marks.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="{_COLOURS[0]}" stroke-width="1.5"/>'
        )
        marks.append(_text(x + 8, y - 7, dot.label, "start"))
    return _svg(marks, height, f"{y_title} by {x_title}")


class _Axis:
    """Maps values to pixels, with round ticks."""

    def __init__(self, values: Sequence[float], low_px: float, high_px: float) -> None:
        low, high = min(values), max(values)
        if high - low < 1e-9:
            low, high = low - 0.05 * max(1.0, abs(low)), high + 0.05 * max(1.0, abs(high))
        self.low_px, self.high_px = low_px, high_px
        step = _round_step((high - low) / 5)
        self.ticks = [
            float(f"{number * step:.10g}") for number in range(math.floor(low / step), math.ceil(high / step) + 1)
        ]
        self._low, self._high = self.ticks[0], self.ticks[-1]

    def at(self, value: float) -> float:
        return float(np.interp(value, (self._low, self._high), (self.low_px, self.high_px)))

    def bottom(self, floor: float, title: str, grid_to: float | None = None) -> str:
        parts = [f'<path d="M{self.low_px:.1f} {floor}H{self.high_px:.1f}" stroke="currentColor"/>']
        for tick in self.ticks:
            x = self.at(tick)
            if grid_to is not None:
                parts.append(f'<path d="M{x:.1f} {grid_to}V{floor}" stroke="currentColor" stroke-opacity=".18"/>')
            parts += [f'<path d="M{x:.1f} {floor}v4" stroke="currentColor"/>', _text(x, floor + 17, f"{tick:g}")]
        return "".join([*parts, _text((self.low_px + self.high_px) / 2, floor + 35, title)])

    def side(self, left: float, right: float, title: str) -> str:
        parts = [f'<path d="M{left} {self.high_px}V{self.low_px}" stroke="currentColor"/>']
        for tick in self.ticks:
            y = self.at(tick)
            parts += [
                f'<path d="M{left} {y:.1f}H{right}" stroke="currentColor" stroke-opacity=".18"/>',
                _text(left - 7, y + 4, f"{tick:g}", "end"),
            ]
        middle = (self.low_px + self.high_px) / 2
        parts.append(
            f'<text x="12" y="{middle:.1f}" transform="rotate(-90 12 {middle:.1f})" text-anchor="middle" '
            f'fill="currentColor">{escape(title)}</text>'
        )
        return "".join(parts)


def _round_step(step: float) -> float:
    power = float(10 ** math.floor(math.log10(step)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)


def _text(x: float, y: float, text: str, anchor: str = "middle", *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor"{weight}>{escape(text)}</text>'


def _svg(marks: Sequence[str], height: float, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}" '
        f'viewBox="0 0 {_WIDTH} {height:.0f}" font-family="sans-serif" font-size="12">{"".join(marks)}</svg>'
    )
