"""Extracts windows (sub-volumes of a CT): clips, scales and writes them into a buffer in one pass.

A window is given by its corner (its first voxel, which may lie outside the volume) and its size. Corner, size and all
arrays here are in array-axis order (i, j, k). :mod:`patchcore.windows.blending` covers a volume with windows and blends
predictions; :mod:`patchcore.windows.sampling` draws the windows to train on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from patchcore import _core
from patchcore.arrays import corner_rows, needed_part, size_triple, thread_count
from patchcore.errors import UnsupportedDataError, WindowError
from patchcore.types import AnyArray, Int64Array, IntTriple, WindowDtype
from patchcore.windows.format import WindowFormat, as_bits

__all__ = ["Windows", "check_apart", "check_buffer", "extract_parts", "extract_windows"]

Volumes: TypeAlias = AnyArray | Sequence[AnyArray]

# Voxel types (dtype kind and bytes) that the core reads without a copy, and conversions of other types.
_IMAGE_KINDS = frozenset({"i1", "u1", "i2", "u2", "i4", "f4", "f8"})
_IMAGE_CONVERSIONS = {
    "b1": "u1",
    "f2": "f4",
    "u4": "f8",
    "i8": "f8",
    "u8": "f8",
    f"f{np.longdouble().itemsize}": "f8",
}
_LABEL_KINDS = frozenset({"b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"})


@dataclass(frozen=True, eq=False)
class Windows:
    """A batch of windows.

    Attributes:
        image: Requested dtype, shape (windows, *window_size), or (windows, 1, *window_size) if `out` has that shape.
        label: uint8, shape (windows, *window_size) or the shape of `label_out`; None if no labels were given.
        corners: int64 (windows, 3), the volume index of each window's first voxel.
    """

    image: AnyArray
    label: npt.NDArray[np.uint8] | None
    corners: Int64Array


def extract_windows(
    volumes: Volumes,
    corners: npt.ArrayLike,
    window_size: Sequence[int],
    *,
    hu_range: tuple[float, float] | None = None,
    labels: Volumes | None = None,
    dtype: WindowDtype = "float32",
    out: AnyArray | None = None,
    label_out: npt.NDArray[np.uint8] | None = None,
    padding: float | None = None,
    threads: int | None = None,
) -> Windows:
    """Extract a batch of windows from one volume or many.

    With `hu_range` = (low, high), intensities are clipped to this range and scaled to [0, 1]. Voxels outside the volume
    and NaN voxels become the lower end of the range, 0. Without `hu_range`, intensities are not scaled; they become the
    nearest float32. The GIL is released. Results do not depend on `threads`.

    Images of int8, uint8, int16, uint16, int32, float32 and float64 are read without a copy, with any strides and
    alignment, in C and Fortran order. The same is true for labels of bool or any integer dtype. Other images (bool,
    float16, uint32, 64-bit integers, long double) and arrays in the other byte order are converted first, but only the
    part that each window needs.

    Args:
        volumes: One 3D array for all windows, or a sequence with one array per window (repeats cost nothing).
        corners: Integers (windows, 3), or (3,) for one window: the volume index of each window's first voxel.
            Windows may lie partly or completely outside the volume.
        window_size: Number of voxels along each axis.
        hu_range: Intensity range (low, high) in HU.
        labels: Label maps, in the same form as `volumes`; each has the shape of its image.
        dtype: ``float32``, ``float16``, ``bfloat16`` (its bits, as uint16) or ``int16`` (rounded; only without
            `hu_range`).
        out: Buffer for the images: `dtype`, C-contiguous, shape (windows, *window_size) or (windows, 1, *window_size).
        label_out: Buffer for the labels: uint8, C-contiguous, one of the same two shapes.
        padding: Value outside the volume, only without `hu_range` [default: 0]. Labels are padded with 0.
        threads: Maximum number of threads; None for all cores.

    Returns:
        The windows, in `out` and `label_out` if they were given.

    Raises:
        WindowError: Corners, sizes, buffers or the range are not valid.
        UnsupportedDataError: A volume is not 3D, its dtype is not supported, or a label does not fit into uint8.
            Buffers then hold unspecified values.

    Example:
        >>> volume = np.arange(27, dtype=np.int16).reshape(3, 3, 3)
        >>> windows = extract_windows(volume, (1, 1, -1), (1, 1, 4), hu_range=(0, 16))
        >>> windows.image[0, 0, 0].tolist()
        [0.0, 0.75, 0.8125, 0.875]
    """
    size = size_triple("window_size", window_size)
    rows = corner_rows(corners)
    form = WindowFormat(hu_range, dtype, 0.0 if padding is None else float(padding))
    if padding is not None and form.hu_range is not None:
        raise WindowError(
            "padding given with hu_range",
            remedy="do not pass padding: windows are padded with the lower end of hu_range",
        )
    images = _per_window("volumes", volumes, len(rows))
    maps = None if labels is None else _per_window("labels", labels, len(rows))
    if maps is None and label_out is not None:
        raise WindowError("label_out given without labels", remedy="pass labels too")
    for number, (image, label) in enumerate(zip(images, maps or (), strict=False)):
        if image.shape != label.shape:
            raise WindowError(
                f"window {number}: label shape {label.shape} does not match image {image.shape}",
                found=label.shape,
                expected=image.shape,
            )
    image_out = np.empty((len(rows), *size), dtype=form.stored) if out is None else out
    check_buffer("out", image_out, form.stored, len(rows), size)
    buffers: list[AnyArray] = [image_out]
    if maps is not None:
        label_out = np.empty((len(rows), *size), dtype=np.uint8) if label_out is None else label_out
        check_buffer("label_out", label_out, np.dtype(np.uint8), len(rows), size)
        buffers.append(label_out)
    check_apart(buffers, [*images, *(maps or ())])
    extract_parts(
        images,
        rows,
        size,
        form,
        out=image_out,
        labels=None if maps is None or label_out is None else (maps, rows, label_out),
        threads=threads,
    )
    return Windows(image=image_out, label=label_out, corners=rows)


def extract_parts(
    images: Sequence[AnyArray],
    corners: Int64Array,
    size: IntTriple,
    form: WindowFormat,
    *,
    out: AnyArray,
    labels: tuple[Sequence[AnyArray], Int64Array, npt.NDArray[np.uint8]] | None,
    threads: int | None,
) -> None:
    """Extract windows from parts of volumes, for readers of files; images and labels may be different parts.

    Args:
        images: One array per window.
        corners: The window's first voxel in each array.
        size: Number of voxels of a window along each axis.
        form: HU range, dtype and padding of the windows.
        out: Buffer that is filled; the caller has checked it.
        labels: One array per window, the corners in these arrays, and the buffer for the labels.
        threads: See :func:`extract_windows`.

    Raises:
        UnsupportedDataError: See :func:`extract_windows`.
    """
    readable, image_corners = _readable(images, corners, size, _IMAGE_KINDS, _IMAGE_CONVERSIONS, "an image")
    readable_maps, label_corners, flat_label_out = None, None, None
    if labels is not None:
        maps, map_corners, label_out = labels
        readable_maps, label_corners = _readable(maps, map_corners, size, _LABEL_KINDS, {}, "a label map")
        flat_label_out = label_out.reshape(-1)
    _core.extract_windows(
        readable,
        image_corners,
        size,
        as_bits(out).reshape(-1),
        format=form.dtype,
        hu_range=form.hu_range,
        padding=form.padding,
        labels=readable_maps,
        label_corners=label_corners,
        label_out=flat_label_out,
        threads=thread_count(threads),
    )


def _per_window(name: str, volumes: Volumes, count: int) -> list[AnyArray]:
    """Return one 3D array per window, from one array or a sequence."""
    if isinstance(volumes, np.ndarray) or not isinstance(volumes, Sequence):
        arrays = [np.asarray(volumes)] * count
    else:
        arrays = [np.asarray(volume) for volume in volumes]
        if len(arrays) != count:
            raise WindowError(
                f"{len(arrays)} {name} for {count} corners",
                found=len(arrays),
                expected=count,
                remedy="pass one array for all windows, or a sequence with one array per window",
            )
    for array in arrays:
        if array.ndim != 3:
            raise UnsupportedDataError(
                f"{name} holds an array of shape {array.shape}",
                found=array.shape,
                expected="three axes (i, j, k)",
                remedy="pass one channel of one volume",
            )
    return arrays


def check_buffer(name: str, buffer: AnyArray, dtype: np.dtype[Any], count: int, size: IntTriple) -> None:
    """Check that windows can be written into a buffer.

    Raises:
        WindowError: They cannot; the message gives the reason.
    """
    shapes = ((count, *size), (count, 1, *size))
    expected = f"a writable, aligned, C-contiguous {dtype} array of shape {shapes[0]} or {shapes[1]}"
    if not isinstance(buffer, np.ndarray):
        raise WindowError(
            f"{name} is a {type(buffer).__name__}",
            found=type(buffer).__name__,
            expected=expected,
            remedy=f"pass {expected}",
        )
    found = [
        part
        for part, wrong in (
            (f"dtype {buffer.dtype}", buffer.dtype != dtype),
            (f"shape {buffer.shape}", buffer.shape not in shapes),
            ("not C-contiguous", not buffer.flags.c_contiguous),
            ("not aligned", not buffer.flags.aligned),
            ("read-only", not buffer.flags.writeable),
        )
        if wrong
    ]
    if found:
        raise WindowError(f"{name}: {', '.join(found)}", found=found, expected=expected, remedy=f"pass {expected}")


def check_apart(buffers: Sequence[AnyArray], volumes: Sequence[AnyArray]) -> None:
    """Check that buffers share no memory with a volume or with each other, by the bounds of their memory.

    Raises:
        WindowError: A buffer overlaps a volume or the other buffer.
    """
    others = [*{id(volume): volume for volume in volumes}.values(), *buffers[1:]]
    if any(np.may_share_memory(buffer, other) for buffer in buffers for other in others if buffer is not other):
        raise WindowError("a buffer overlaps a volume or the other buffer", remedy="write windows into separate memory")


def _readable(
    volumes: Sequence[AnyArray],
    corners: Int64Array,
    size: IntTriple,
    kinds: frozenset[str],
    conversions: dict[str, str],
    what: str,
) -> tuple[list[AnyArray], Int64Array]:
    """Return arrays that the core can read, and the corners in them; of converted arrays only the window."""
    arrays, rows = list(volumes), corners
    for number, array in enumerate(volumes):
        kind = f"{array.dtype.kind}{array.dtype.itemsize}"
        if kind in kinds and array.dtype.isnative:
            continue
        if kind not in kinds and kind not in conversions:
            raise UnsupportedDataError(
                f"{what} of dtype {array.dtype} is not supported",
                found=str(array.dtype),
                expected="a real number of at most 8 bytes" if conversions else "bool or an integer",
                remedy="convert it with astype first",
            )
        if rows is corners:
            rows = corners.copy()
        start, stop, rows[number] = needed_part(corners[number], size, array.shape)
        part = array[tuple(map(slice, start, stop))]
        arrays[number] = part.astype(np.dtype(conversions.get(kind, kind)))
    return arrays, rows
