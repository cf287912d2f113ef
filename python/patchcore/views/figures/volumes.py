"""Draw lesion volumes together with the volumes of the candidate patches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from patchcore.errors import DataError
from patchcore.types import IntTriple, PathLike, Triple
from patchcore.views.figures.canvas import BLUE, FORMATS, LIGHT_BLUE, RED, check_formats, log_axis, new_figure, save
from patchcore.views.figures.canvas import title as write_title
from patchcore.views.log_scale import log_bins

__all__ = ["lesion_volumes_figure"]

_WIDTH, _HEIGHT = 8.0, 4.2
_LEFT, _RIGHT = 0.09, 0.97


def lesion_volumes_figure(
    volumes_mm3: Iterable[float],
    candidates: Sequence[int | IntTriple],
    spacing: Triple,
    ideal_edge: float | None,
    path: PathLike,
    *,
    title: str | None = None,
    formats: Sequence[str] = FORMATS,
) -> Path:
    """Draw lesion volumes on a log axis, and mark the volumes of the candidate patches and of p*.

    Args:
        volumes_mm3: Lesion volumes, mm³, at least one.
        candidates: Patch sizes, voxels; a single number is the edge of a cube.
        spacing: Training spacing, mm per voxel.
        ideal_edge: p* in voxels, or None.
        path: File to write atomically; its folder is created, and the suffix is replaced by that of each format.
        title: Text above the figure.
        formats: ``"png"``, ``"svg"`` or both.

    Returns:
        The path with the suffix of the first format.

    Raises:
        DataError: There is no lesion, a volume is not positive, or a format is unknown.
        MissingExtraError: Matplotlib is not installed.
        OSError: The figure cannot be written.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "volumes.png"
        >>> lesion_volumes_figure([900.0, 4000.0], (8, 12), (1.0, 1.0, 1.0), 13.5, target).name
        'volumes.png'
    """
    volumes = np.asarray(list(volumes_mm3), dtype=np.float64)
    if not len(volumes) or not np.all(np.isfinite(volumes)) or volumes.min() <= 0:
        raise DataError("a volume figure needs at least one lesion, and positive volumes", found=len(volumes))
    check_formats(formats)
    voxel_mm3 = math.prod(spacing)
    patches = sorted({(p, p, p) if isinstance(p, int) else p for p in candidates}, key=math.prod)
    marks = [(" × ".join(map(str, p if len(set(p)) > 1 else p[:1])), math.prod(p) * voxel_mm3 / 1000) for p in patches]
    ideal_ml = None if ideal_edge is None else ideal_edge**3 * voxel_mm3 / 1000
    edges = log_bins(volumes / 1000, [*(v for _, v in marks), *([] if ideal_ml is None else [ideal_ml])])
    counts, _ = np.histogram(volumes / 1000, bins=edges)

    names = _Names(float(edges[0]), float(edges[-1]))
    written = [(name, *names.place(volume, name), BLUE) for name, volume in marks]
    if ideal_ml is not None:
        name = f"p* = {ideal_edge:.1f} voxels"
        written.append((name, *names.place(ideal_ml, name), RED))
    figure = new_figure(_WIDTH, _HEIGHT)
    top = 0.83 - 0.038 * len(names.rows)
    axes = figure.add_axes((_LEFT, 0.13, _RIGHT - _LEFT, top - 0.13))
    axes.stairs(counts, edges, fill=True, color=LIGHT_BLUE)
    axes.stairs(counts, edges, color="white", linewidth=0.6)
    axes.vlines(edges[1:-1], 0, np.minimum(counts[1:], counts[:-1]), color="white", linewidth=0.6)
    ceiling = 1.08 * float(counts.max())
    axes.set_ylim(0, ceiling)
    log_axis(axes, "x", float(edges[0]), float(edges[-1]))
    for _, volume in marks:
        axes.axvline(volume, color=BLUE, linewidth=1.2, linestyle="--")
    if ideal_ml is not None:
        axes.axvline(ideal_ml, color=RED, linewidth=1.8)
    for name, place, row, colour in written:
        axes.annotate(
            name,
            (place, 1),
            xycoords="axes fraction",
            xytext=(0, 3 + 11 * row),
            textcoords="offset points",
            color=colour,
            ha="center",
            va="bottom",
            fontsize=9,
        )
    axes.locator_params(axis="y", integer=True, nbins=6)
    axes.set_xlabel("lesion volume (mL)")
    axes.set_ylabel("lesions")
    axes.spines[["top", "right"]].set_visible(False)
    note = f"dashed: patch with this edge [voxels] at {' × '.join(f'{s:.3g}' for s in spacing)} mm"
    heading = title or f"{len(volumes)} lesions and the candidate patch sizes"
    write_title(figure, heading, note if marks else "", left=_LEFT)
    return save(figure, path, formats=formats)[0]


class _Names:
    """Rows of names above the axes, filled from the lowest row so that names do not overlap."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high
        self.rows: list[list[tuple[float, float]]] = []

    def place(self, value: float, name: str) -> tuple[float, int]:
        """Return the position of a name along the axis, as a fraction, and its row."""
        width = _WIDTH * (_RIGHT - _LEFT)
        # A digit of 9 points is 0.08 inches wide.
        half = 0.042 * len(name) + 0.04
        centre = math.log(value / self.low) / math.log(self.high / self.low) * width
        centre = min(max(centre, half - 0.3), width - half + 0.2)
        span = (centre - half, centre + half)
        for row, taken in enumerate(self.rows):
            if all(span[1] <= start or stop <= span[0] for start, stop in taken):
                taken.append(span)
                return centre / width, row
        self.rows.append([span])
        return centre / width, len(self.rows) - 1
