"""Draw predictions on the CT: one axial slice per case with true and predicted contours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from patchcore.errors import DataError, ShapeMismatchError
from patchcore.types import PathLike, Triple
from patchcore.views.figures.canvas import INK, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Panel", "best_slice", "contours_figure"]

Panel = tuple[npt.NDArray[Any], npt.NDArray[Any], "npt.NDArray[Any] | None", str]
"""Image, label, prediction (or None) and title; 3D arrays of the same shape, canonical RAS+ axes."""

_TRUE, _PREDICTED = "#35d07f", "#ff5a4f"


def best_slice(label: npt.NDArray[Any], prediction: npt.NDArray[Any] | None = None) -> int:
    """Return the axial slice (last axis) with the most label voxels, or predicted voxels if there are none.

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
    """Draw one axial CT slice per case with its true and predicted contours.

    Args:
        panels: Image (HU), label, prediction and title of each case. The arrays are 3D, have the same shape and
            canonical RAS+ axes. Label and prediction are masks or label maps; their non-zero voxels are outlined.
            The prediction may be None. The slice with the most label voxels is shown in the radiological view:
            anterior up, the patient's right on the left.
        path: PNG to write atomically; its folder is created.
        hu_range: Grey scale, HU.
        spacing: Spacing of all panels, or one spacing per panel, mm; it sets the aspect ratio.
        columns: Panels per row.

    Returns:
        The written path.

    Raises:
        DataError: There is no panel, or the number of spacings is wrong.
        ShapeMismatchError: The arrays of a panel have different shapes, or are not 3D.
        MissingExtraError: Matplotlib is not installed.
        OSError: The figure cannot be written.
    """
    if not panels:
        raise DataError("no case to draw")
    for image, label, prediction, title in panels:
        shapes = {image.shape, label.shape} | (set() if prediction is None else {prediction.shape})
        if len(shapes) > 1 or image.ndim != 3:
            raise ShapeMismatchError(f"{title}: arrays of shapes {sorted(shapes)} are not on one 3D grid", found=shapes)
    spacings = _spacings(spacing, len(panels))
    across = min(columns, len(panels))
    down = math.ceil(len(panels) / across)
    figure = new_figure(2.9 * across, 3.2 * down + 0.45)
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, panel, mm in zip(grid.flat, panels, spacings, strict=False):
        _draw_panel(axes, panel, mm, hu_range)
    height = 3.2 * down + 0.45
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.4 / height, top=1 - 0.3 / height, wspace=0.04, hspace=0.16)
    for x, colour, name in ((0.02, _TRUE, "true"), (0.14, _PREDICTED, "predicted")):
        figure.text(x, 0.12 / height, f"— {name}", color=colour, fontsize=10, fontweight="bold")
    save(figure, path, formats=("png",))
    return Path(path)


def _spacings(spacing: Triple | Sequence[Triple], count: int) -> list[Triple]:
    rows = np.asarray(spacing, dtype=np.float64)
    rows = np.broadcast_to(rows, (count, 3)) if rows.ndim == 1 else rows
    if rows.shape != (count, 3):
        raise DataError(f"{len(rows)} spacings for {count} panels", found=len(rows), expected=count)
    return [(float(a), float(b), float(c)) for a, b, c in rows]


def _draw_panel(axes: Axes, panel: Panel, spacing: Triple, hu_range: tuple[float, float]) -> None:
    image, label, prediction, title = panel
    k = best_slice(label, prediction)
    # In RAS+ the first index increases to the right and the second to anterior. Flipping the first and placing the
    # origin at the bottom gives the radiological view.
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
        # A plane with a single value has no contour, and matplotlib would warn.
        if plane.any() and not plane.all():
            axes.contour(plane.astype(np.float32), levels=[0.5], colors=[colour], linewidths=1.3)
    axes.set_title(title, fontsize=9, color=INK, parse_math=False)
