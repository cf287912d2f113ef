"""Draw the distribution of the spacings per axis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from patchcore.errors import DataError
from patchcore.types import Float64Array, PathLike, Triple
from patchcore.views.figures.canvas import BLUE, FORMATS, GREY, RED, check_formats, log_axis, new_figure, save
from patchcore.views.figures.canvas import title as write_title

__all__ = ["spacing_figure"]

_AXES = ("x\nleft–right", "y\nback–front", "z\nfeet–head")
# Spacings closer than 1 / _PLACES of the axis share a bubble.
_PLACES = 150


def spacing_figure(
    spacings: Sequence[Triple], path: PathLike, *, title: str | None = None, formats: Sequence[str] = FORMATS
) -> Path:
    """Draw the spacings of all cases along each axis, and their median, which is the default training spacing.

    Args:
        spacings: Spacing of each case, closest-canonical axes, mm; at least one case, all positive.
        path: File to write; the suffix is replaced by that of each format.
        title: Text above the figure.
        formats: ``"png"``, ``"svg"`` or both.

    Returns:
        The path with the suffix of the first format.

    Raises:
        DataError: There is no case, a spacing is not positive, or a format is unknown.
        MissingExtraError: Matplotlib is not installed.
        OSError: The figure cannot be written.
    """
    values = np.asarray(list(spacings), dtype=np.float64).reshape(-1, 3)
    if not len(values) or not np.all(np.isfinite(values)) or values.min() <= 0:
        raise DataError("a spacing figure needs at least one case, and positive spacings", found=len(values))
    check_formats(formats)
    low, high = float(values.min()) / 1.25, float(values.max()) * 1.25
    figure = new_figure(8.0, 3.4)
    axes = figure.add_axes((0.12, 0.16, 0.6, 0.62))
    log_axis(axes, "x", low, high)
    axes.set_ylim(2.55, -0.55)
    axes.set_yticks(range(3), _AXES)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("spacing (mm per voxel)")
    for row in range(3):
        column = values[:, row]
        places, counts = _bubbles(column, low, high)
        fifth, first, median, third, last = np.percentile(column, [5, 25, 50, 75, 95])
        axes.plot([fifth, last], [row, row], color=BLUE, linewidth=1.2, solid_capstyle="butt")
        axes.plot([first, third], [row, row], color=BLUE, linewidth=5, solid_capstyle="butt")
        axes.scatter(
            places,
            np.full(len(places), row + 0.27),
            s=9 + 160 * counts / len(values),
            color=BLUE,
            alpha=0.45,
            linewidths=0,
        )
        axes.plot([median, median], [row - 0.2, row + 0.12], color=RED, linewidth=2)
        middle = f"median {median:.3g} mm"
        spread = (
            "the same in every case" if column.min() == column.max() else f"{column.min():.3g} to {column.max():.3g}"
        )
        for text, up, colour in ((middle, -0.1, RED), (spread, 0.2, GREY)):
            axes.annotate(
                text, (1.03, row + up), xycoords=("axes fraction", "data"), color=colour, fontsize=9, va="center",
                annotation_clip=False,
            )  # fmt: skip
    axes.spines[["top", "right", "left"]].set_visible(False)
    note = "thin line: 5 to 95 % of the cases, thick: 25 to 75 %; bubble area: share of cases with that spacing"
    write_title(figure, title or f"Spacing of {len(values)} case{'s' * (len(values) != 1)}", note, left=0.12)
    return save(figure, path, formats=formats)[0]


def _bubbles(values: Float64Array, low: float, high: float) -> tuple[Float64Array, npt.NDArray[np.int64]]:
    """Return the positions of the bubbles and the number of cases in each; overlapping values share their median."""
    places = np.round(np.log(values / low) / np.log(high / low) * _PLACES).astype(np.int64)
    kept, counts = np.unique(places, return_counts=True)
    return np.array([np.median(values[places == place]) for place in kept]), counts
