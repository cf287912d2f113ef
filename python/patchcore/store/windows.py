"""Reads batches of windows from arrays that patchcore wrote: decode, clip, scale and place in one pass.

:class:`patchcore.store.window_reader.WindowReader` reads windows from these arrays and from all other volumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore import _core
from patchcore.arrays import corner_rows, size_triple, thread_count
from patchcore.errors import UnsupportedDataError, WindowError
from patchcore.store.array import ChunkCache, StoredArray
from patchcore.types import AnyArray, IntTriple
from patchcore.windows.extract import check_buffer
from patchcore.windows.format import WindowFormat, as_bits

__all__ = ["read_windows"]


def read_windows(
    arrays: Sequence[StoredArray],
    corners: npt.ArrayLike,
    window_size: Sequence[int],
    form: WindowFormat,
    *,
    ranges: Sequence[tuple[float, float]] | None = None,
    labels: Sequence[StoredArray] | None = None,
    out: AnyArray | None = None,
    label_out: npt.NDArray[np.uint8] | None = None,
    cache: ChunkCache | None = None,
    threads: int | None = None,
) -> AnyArray:
    """Read a batch of image windows: decode, clip, scale and place in one pass, with the GIL released.

    Args:
        arrays: The array of each window. The same array may occur several times.
        corners: Integers (windows, 3): array index of each window's first voxel. It may lie outside the array.
        window_size: Size of a window along x, y, z [voxels].
        form: Format of the windows.
        ranges: One HU range per window, instead of the range in `form`.
        labels: The label array of each window, read into `label_out` in the same call.
        out: Array to fill: dtype `form.stored`, shape (windows, x, y, z), C order [default: a new array].
        label_out: Array to fill with labels: uint8, shape (windows, x, y, z).
        cache: Cache of decoded chunks.
        threads: Number of threads [default: all cores].

    Returns:
        `out`.

    Raises:
        WindowError: The numbers of arrays and corners differ, or a buffer does not fit.
        UnsupportedDataError: An array was not written by patchcore, or has the wrong dtype.
        CorruptFileError: A chunk is damaged. The error names its file.
        OSError: A file cannot be read.
    """
    rows, size, flat = _prepared(arrays, corners, window_size, out, form.stored)
    if (labels is None) != (label_out is None):
        raise WindowError("only one of labels and label_out is given", remedy="pass both, or neither")
    flat_label = None
    if labels is not None:
        _, _, label_out = _prepared(labels, rows, size, label_out, np.dtype(np.uint8), "label_out")
        flat_label = label_out.reshape(-1)
    _core.read_store_windows(
        _ours(arrays),
        rows,
        size,
        as_bits(flat).reshape(-1),
        format=form.dtype,
        hu_range=_ranges(form, ranges, len(rows)),
        padding=form.padding,
        labels=None if labels is None else _ours(labels),
        label_out=flat_label,
        cache=None if cache is None or not cache.most_bytes else cache._core,
        threads=thread_count(threads),
    )
    return flat if out is None else out


def _ranges(
    form: WindowFormat, ranges: Sequence[tuple[float, float]] | None, count: int
) -> list[tuple[float, float]] | None:
    if ranges is None:
        return None if form.hu_range is None else [form.hu_range]
    if len(ranges) != count or form.dtype == "int16":
        raise WindowError(f"{len(ranges)} HU ranges for {count} windows of {form.dtype}", expected="one per window")
    return [(float(low), float(high)) for low, high in ranges]


def _ours(arrays: Sequence[StoredArray]) -> list[_core.StoredArray]:
    """Return the arrays as the Rust core reads them in one call."""
    ours = [array.core for array in arrays if array.core is not None]
    if len(ours) != len(arrays):
        raise UnsupportedDataError("an array was not written by patchcore", remedy="read it with WindowReader")
    return ours


def _prepared(
    arrays: Sequence[StoredArray],
    corners: npt.ArrayLike,
    window_size: Sequence[int],
    out: npt.NDArray[Any] | None,
    dtype: np.dtype[Any],
    name: str = "out",
) -> tuple[npt.NDArray[np.int64], IntTriple, npt.NDArray[Any]]:
    rows, size = corner_rows(corners), size_triple("window_size", window_size)
    if len(arrays) != len(rows):
        raise WindowError(
            f"{len(arrays)} arrays and {len(rows)} corners", remedy="pass one array and one corner per window"
        )
    shape = (len(rows), *size)
    if out is None:
        return rows, size, np.empty(shape, dtype)
    check_buffer(name, out, dtype, len(rows), size)
    return rows, size, out.reshape(shape)
