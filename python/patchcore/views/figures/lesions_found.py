"""Draw which lesions were found, by size, and the FROC curve beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from patchcore.errors import DataError
from patchcore.lesions.size_bins import SIZE_BIN_EDGES_MM, SIZE_BIN_NAMES
from patchcore.types import PathLike
from patchcore.views.figures.canvas import (
    BLUE,
    FORMATS,
    GREY,
    LIGHT_BLUE,
    RED,
    Format,
    check_formats,
    log_axis,
    new_figure,
    save,
)
from patchcore.views.figures.canvas import title as write_title

__all__ = ["lesions_found_figure"]

_MOST_FALSE = 10.0


def lesions_found_figure(
    diameters_mm: Sequence[float],
    dsc: Sequence[float],
    found: Sequence[bool],
    false_per_case: Sequence[float],
    sensitivity: Sequence[float],
    path: PathLike,
    *,
    title: str | None = None,
    formats: Sequence[Format] = FORMATS,
) -> Path:
    """Draw the DSC of every lesion against its diameter, and the FROC curve.

    Args:
        diameters_mm: Equivalent diameter of each true lesion, at least one.
        dsc: DSC of each lesion; 0 if it was not found.
        found: Whether each lesion was found.
        false_per_case: False candidates per case along the curve, ascending.
        sensitivity: Share of the lesions that is found along the curve.
        path: File to write atomically; the suffix is replaced by that of each format.
        title: Text above the figure.
        formats: ``"png"``, ``"svg"`` or both.

    Returns:
        The path with the suffix of the first format.

    Raises:
        DataError: There is no lesion, or a format is unknown.
        MissingExtraError: Matplotlib is not installed.
        OSError: The figure cannot be written.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "lesions.png"
        >>> lesions_found_figure([8.0, 22.0], [0.0, 0.8], [False, True], [0.0, 0.5], [0.0, 0.5], target).name
        'lesions.png'
    """
    diameters, scores = np.asarray(diameters_mm, dtype=np.float64), np.asarray(dsc, dtype=np.float64)
    is_found = np.asarray(found, dtype=np.bool_)
    if not len(diameters):
        raise DataError("a figure of lesions needs at least one lesion")
    check_formats(formats)
    figure = new_figure(9.0, 4.2)
    axes = figure.add_axes((0.07, 0.14, 0.5, 0.64))
    low, high = min(float(diameters.min()), 4.0) / 1.15, max(float(diameters.max()), 25.0) * 1.15
    log_axis(axes, "x", low, high)
    for number, (name, start, stop) in enumerate(
        zip(SIZE_BIN_NAMES, (low, *SIZE_BIN_EDGES_MM), (*SIZE_BIN_EDGES_MM, high), strict=True)
    ):
        inside = (diameters >= start) & (diameters < stop)
        if number:
            axes.axvline(start, color=GREY, linewidth=0.6, linestyle=":")
        if stop > start:
            middle = float(np.sqrt(max(start, low) * min(stop, high)))
            text = f"{name}\n{int((inside & is_found).sum())} of {int(inside.sum())}"
            axes.annotate(text, (middle, 1.02), xycoords=("data", "axes fraction"), ha="center", fontsize=8, color=GREY)
    axes.scatter(diameters[is_found], scores[is_found], s=16, color=BLUE, alpha=0.7, linewidths=0, label="found")
    axes.scatter(diameters[~is_found], scores[~is_found], s=28, color=RED, marker="x", label="missed")
    axes.set_ylim(-0.05, 1.02)
    axes.set_xlabel("equivalent diameter (mm)")
    axes.set_ylabel("DSC of the lesion")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)

    curve = figure.add_axes((0.66, 0.14, 0.31, 0.64))
    rates, shares = np.asarray(false_per_case, dtype=np.float64), np.asarray(sensitivity, dtype=np.float64)
    curve.step(np.append(rates, max(_MOST_FALSE, rates[-1])), np.append(shares, shares[-1]), where="post", color=BLUE)
    curve.fill_between(rates, 0, shares, step="post", color=LIGHT_BLUE, alpha=0.3, linewidth=0)
    curve.set_xlim(0, _MOST_FALSE)
    curve.set_ylim(0, 1.02)
    curve.set_xlabel("false candidates per case")
    curve.set_ylabel("lesions found")
    curve.spines[["top", "right"]].set_visible(False)
    heading = title or f"{int(is_found.sum())} of {len(diameters)} lesions found"
    write_title(figure, heading, "left: found by size; right: FROC", left=0.07)
    return save(figure, path, formats=formats)[0]
