"""Figures as PNG: how large the lesions are beside the patches, and how predictions lie on the CT.

Matplotlib is loaded only when a figure is drawn, and drawn on without a display or global state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from patchcore.errors import DataError, MissingExtraError, ShapeMismatchError
from patchcore.files import replace_atomically
from patchcore.types import IntTriple, PathLike, Triple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Panel", "best_slice", "contours_figure", "lesion_volumes_figure"]

Panel = tuple[npt.NDArray[Any], npt.NDArray[Any], "npt.NDArray[Any] | None", str]
"""Image, label, prediction (or None) and title; 3D arrays of one shape, canonical RAS+ axes."""

_INK, _GREY, _BARS, _CANDIDATES, _IDEAL = "#222222", "#8a8a8a", "#9db8d6", "#1f4e79", "#c0392b"
_TRUE, _PREDICTED = "#35d07f", "#ff5a4f"


def lesion_volumes_figure(
    volumes_mm3: Iterable[float],
    candidates: Sequence[int | IntTriple],
    spacing: Triple,
    ideal_edge: float | None,
    path: PathLike,
    *,
    title: str | None = None,
) -> Path:
    """Draw lesion volumes on a log axis with the volumes of the candidate patches and of p* drawn in.

    Args:
        volumes_mm3: Lesion volumes, mm³, at least one.
        candidates: Patch sizes in voxels; a single edge stands for a cube.
        spacing: Training spacing, mm per voxel.
        ideal_edge: p* in voxels, or None.
        path: PNG to write, whole or not at all; its folder is made.
        title: Text above the figure.

    Returns:
        The path written.

    Raises:
        DataError: No lesion, or a volume that is not positive.
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
        raise DataError("lesion volumes to draw must be positive and at least one", found=len(volumes))
    voxel_mm3 = math.prod(spacing)
    patches = [(p, p, p) if isinstance(p, int) else p for p in candidates]
    marks = [(" × ".join(map(str, p if len(set(p)) > 1 else p[:1])), math.prod(p) * voxel_mm3) for p in patches]
    ideal_mm3 = None if ideal_edge is None else ideal_edge**3 * voxel_mm3

    shown = np.array([*volumes, *(v for _, v in marks), *([ideal_mm3] if ideal_mm3 else [])]) / 1000
    low, high = math.log10(shown.min()) - 0.15, math.log10(shown.max()) + 0.15
    bins = np.logspace(low, high, max(12, min(60, 4 * math.ceil(math.sqrt(len(volumes))))))

    figure = _figure(8.0, 4.2)
    axes = figure.add_axes((0.09, 0.16, 0.88, 0.66))
    axes.hist(volumes / 1000, bins=bins.tolist(), color=_BARS, edgecolor="white", linewidth=0.5)
    axes.set_xscale("log")
    axes.set_xlim(10**low, 10**high)
    top = axes.get_ylim()[1]
    for name, volume in marks:
        axes.axvline(volume / 1000, color=_CANDIDATES, linewidth=1.2, linestyle="--")
        axes.text(volume / 1000, top * 1.02, name, color=_CANDIDATES, ha="center", va="bottom", fontsize=9)
    if ideal_mm3 is not None:
        label = f"p* = {ideal_edge:.1f} voxels"
        axes.axvline(ideal_mm3 / 1000, color=_IDEAL, linewidth=1.8)
        # Inside the axes, on whichever side has room, so that it never covers the candidates' names.
        left = math.log10(ideal_mm3 / 1000) > (low + high) / 2
        axes.annotate(
            label,
            (ideal_mm3 / 1000, top * 0.95),
            xytext=(-6 if left else 6, 0),
            textcoords="offset points",
            color=_IDEAL,
            ha="right" if left else "left",
            va="top",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
        )
    axes.set_ylim(0, top)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.locator_params(axis="y", integer=True)
    axes.set_xlabel("lesion volume (mL)")
    axes.set_ylabel("lesions")
    axes.text(
        0.0,
        1.1,
        f"dashed: a patch of that many voxels at {' × '.join(f'{s:.3g}' for s in spacing)} mm",
        transform=axes.transAxes,
        color=_GREY,
        fontsize=8,
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title or f"{len(volumes)} lesions and the candidate patch sizes", color=_INK, x=0.09, ha="left")
    return _save(figure, path)


def best_slice(label: npt.NDArray[Any], prediction: npt.NDArray[Any] | None = None) -> int:
    """Return the axial slice (last axis) with the most label voxels, or predicted ones without a label.

    Example:
        >>> volume = np.zeros((4, 4, 5), dtype=np.uint8)
        >>> volume[1:3, 1:3, 3] = 1
        >>> best_slice(volume)
        3
    """
    for mask in (label, prediction):
        if mask is not None and np.any(mask):
            return int(np.count_nonzero(mask, axis=(0, 1)).argmax())
    return int(label.shape[2] // 2)


def contours_figure(
    panels: Sequence[Panel],
    path: PathLike,
    *,
    hu_range: tuple[float, float] = (-160.0, 240.0),
    spacing: Triple | Sequence[Triple] = (1.0, 1.0, 1.0),
    columns: int = 4,
) -> Path:
    """Draw one axial CT slice a case with its true and predicted contours.

    Args:
        panels: Image (HU), label, prediction and title of each case. The arrays are 3D, of one shape, in
            canonical RAS+ axes; label and prediction are masks or label maps whose non-zero voxels are
            outlined; a prediction may be None. The slice with the most label voxels is shown, anterior up,
            the patient's right on the left, as radiologists do.
        path: PNG to write, whole or not at all; its folder is made.
        hu_range: Grey scale, HU.
        spacing: mm per voxel of all panels, or one for each, so that no slice is stretched.
        columns: Panels in a row.

    Returns:
        The path written.

    Raises:
        DataError: No panel.
        ShapeMismatchError: Arrays of one panel differ in shape, or are not 3D.
        MissingExtraError: Matplotlib is not installed.
        OSError: The figure cannot be written.
    """
    if not panels:
        raise DataError("no case to draw")
    for image, label, prediction, title in panels:
        shapes = {image.shape, label.shape} | (set() if prediction is None else {prediction.shape})
        if len(shapes) > 1 or image.ndim != 3:
            raise ShapeMismatchError(f"{title}: arrays of shapes {sorted(shapes)} are not one 3D grid", found=shapes)
    spacings = _spacings(spacing, len(panels))
    across = min(columns, len(panels))
    down = math.ceil(len(panels) / across)
    figure = _figure(2.9 * across, 3.2 * down + 0.45)
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, panel, mm in zip(grid.flat, panels, spacings, strict=False):
        _draw_panel(axes, panel, mm, hu_range)
    height = 3.2 * down + 0.45
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.4 / height, top=1 - 0.3 / height, wspace=0.04, hspace=0.16)
    for x, colour, name in ((0.02, _TRUE, "true"), (0.14, _PREDICTED, "predicted")):
        figure.text(x, 0.12 / height, f"— {name}", color=colour, fontsize=10, fontweight="bold")
    return _save(figure, path)


def _spacings(spacing: Triple | Sequence[Triple], count: int) -> list[Triple]:
    rows = np.asarray(spacing, dtype=np.float64)
    rows = np.broadcast_to(rows, (count, 3)) if rows.ndim == 1 else rows
    if rows.shape != (count, 3):
        raise DataError(f"{len(rows)} spacings for {count} panels", found=len(rows), expected=count)
    return [(float(a), float(b), float(c)) for a, b, c in rows]


def _draw_panel(axes: Axes, panel: Panel, spacing: Triple, hu_range: tuple[float, float]) -> None:
    image, label, prediction, title = panel
    k = best_slice(label, prediction)
    # In RAS+ the first index grows to the right and the second to anterior: flipping the first and putting
    # the origin below gives the radiologist's view.
    axes.imshow(
        np.asarray(image[::-1, :, k], dtype=np.float32).T,
        cmap="gray",
        vmin=hu_range[0],
        vmax=hu_range[1],
        origin="lower",
        aspect=spacing[1] / spacing[0],
        interpolation="bilinear",
    )
    for mask, colour in ((label, _TRUE), (prediction, _PREDICTED)):
        if mask is None:
            continue
        plane = (np.asarray(mask[::-1, :, k]) != 0).T
        # A plane of one value has no contour, and matplotlib would warn.
        if plane.any() and not plane.all():
            axes.contour(plane.astype(np.float32), levels=[0.5], colors=[colour], linewidths=1.3)
    axes.set_title(title, fontsize=9, color=_INK)


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "figures need matplotlib", remedy="install it with: pip install 'patchcore[figures]'"
        ) from error
    figure = Figure(figsize=(width, height), dpi=140)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: PathLike) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(path) as temporary:
        # Without the software's version, so that one plan gives the same bytes.
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path
