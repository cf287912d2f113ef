"""Draw the lesion burden of each case and each patient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from patchcore.errors import DataError
from patchcore.types import Float64Array, PathLike
from patchcore.views.figures.canvas import BLUE, FORMATS, GREY, ORANGE, check_formats, log_axis, new_figure, save
from patchcore.views.figures.canvas import title as write_title

if TYPE_CHECKING:
    from patchcore.study.fingerprint import Burden

__all__ = ["burden_figure"]

# More points than this are thinned out: they are not visible and cost time.
_POINTS = 400


def burden_figure(
    per_case: Burden,
    per_patient: Burden | None,
    path: PathLike,
    *,
    title: str | None = None,
    formats: Sequence[str] = FORMATS,
) -> Path:
    """Draw total lesion volume and number of lesions per case, and per patient if that differs.

    The left side shows every case with a lesion as a point, sorted by total lesion volume. The right side shows how
    many cases have how many lesions.

    Args:
        per_case: Burden of the cases.
        per_patient: Burden of the patients; if None, or if there are as many patients as cases, only cases are drawn.
        path: File to write; the suffix is replaced by that of each format.
        title: Text above the figure.
        formats: ``"png"``, ``"svg"`` or both.

    Returns:
        The path with the suffix of the first format.

    Raises:
        DataError: A format is unknown.
        MissingExtraError: Matplotlib is not installed.
        OSError: The figure cannot be written.
    """
    check_formats(formats)
    groups = [("cases", per_case, BLUE, "o")]
    if per_patient is not None and len(per_patient.names) != len(per_case.names):
        groups.append(("patients", per_patient, ORANGE, "^"))
    figure = new_figure(8.0, 4.0)
    left = figure.add_axes((0.105, 0.14, 0.425, 0.66))
    right = figure.add_axes((0.62, 0.14, 0.35, 0.66))

    every = np.concatenate([burden.volumes_mm3 for _, burden, _, _ in groups]) / 1000
    if every.min() <= 0:
        raise DataError("a burden figure needs positive lesion volumes", found=float(every.min()))
    for name, burden, colour, marker in groups:
        shares, volumes = _ranked(np.asarray(burden.volumes_mm3) / 1000)
        left.plot(
            shares, volumes, linestyle="none", marker=marker, markersize=3.5, markeredgewidth=0.7, color=colour,
            markerfacecolor=colour if marker == "o" else "none", label=f"{len(burden.names)} {name}",
        )  # fmt: skip
    log_axis(left, "y", float(every.min()) / 1.5, float(every.max()) * 1.5)
    left.set_xlim(-2, 102)
    left.set_xlabel("percentile")
    left.set_ylabel("total lesion volume (mL)")
    left.legend(frameon=False, fontsize=9, loc="lower right", handletextpad=0.2, borderaxespad=0.2)

    edges = _count_bins(max(burden.lesions.max for _, burden, _, _ in groups))
    width = 0.8 / len(groups)
    for place, (_, burden, colour, marker) in enumerate(groups):
        counts = np.histogram(burden.lesion_counts, bins=[*edges, np.inf])[0]
        at = np.arange(len(edges)) + (place - (len(groups) - 1) / 2) * width
        solid = marker == "o"
        right.bar(at, counts, width=width * 0.9, color=colour if solid else "none", edgecolor=colour, linewidth=0.9)
    right.set_xticks(range(len(edges)), _bin_names(edges), fontsize=8 if edges[-1] > 9 else 9)
    # Room for at least six bars: a single bar as wide as the axes would look large.
    right.set_xlim(-0.6, max(len(edges), 6) - 0.4)
    right.locator_params(axis="y", integer=True, nbins=6)
    right.set_xlabel("lesions per case" if len(groups) == 1 else "lesions per case or patient")
    right.set_ylabel(" or ".join(name for name, *_ in groups))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    left.grid(axis="y", color=GREY, alpha=0.2, linewidth=0.6)
    note = "left: sorted by volume; cases and patients without a lesion are not drawn"
    write_title(figure, title or "Lesion burden", note, left=0.105)
    return save(figure, path, formats=formats)[0]


def _ranked(values: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return the percentile of each value and the values in ascending order, thinned out."""
    ordered = np.sort(values)
    shares = 100 * (np.arange(len(ordered)) + 0.5) / len(ordered)
    keep = np.unique(np.linspace(0, len(ordered) - 1, min(len(ordered), _POINTS)).round().astype(int))
    return shares[keep], ordered[keep]


def _count_bins(most: int) -> list[int]:
    """Return the lower edges of the bins of lesion counts: one bin per number up to 10, wider bins above.

    Example:
        >>> _count_bins(3), _count_bins(40)
        ([1, 2, 3], [1, 2, 4, 6, 11, 21])
    """
    return list(range(1, most + 1)) if most <= 10 else [edge for edge in (1, 2, 4, 6, 11, 21, 51) if edge <= most]


def _bin_names(edges: list[int]) -> list[str]:
    names = []
    for low, high in zip(edges, [*edges[1:], None], strict=True):
        if high == low + 1 or (high is None and low == len(edges)):
            names.append(str(low))
        else:
            names.append(f"{low}+" if high is None else f"{low}–{high - 1}")
    return names
