"""The window reader: reads windows from a store, a NIfTI file or an array with the same calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from patchcore.arrays import corner_rows, size_triple
from patchcore.errors import UnsupportedDataError, WindowError
from patchcore.store import ChunkCache, StoredArray
from patchcore.store.array import CacheCounts
from patchcore.store.case import AIR_HU
from patchcore.store.prepared_case import PreparedCase
from patchcore.store.windows import read_windows
from patchcore.types import AnyArray, Int64Array, IntTriple, PathLike, WindowDtype
from patchcore.volumes.nifti_windows import NiftiWindows
from patchcore.windows.blending import window_grid
from patchcore.windows.extract import Windows, check_apart, check_buffer, extract_parts
from patchcore.windows.format import WindowFormat

__all__ = ["WindowCase", "WindowReader"]

Volume: TypeAlias = StoredArray | NiftiWindows | npt.NDArray[Any]
WindowCase: TypeAlias = "PreparedCase | PathLike | AnyArray | StoredArray | tuple[Any, Any]"
"""A CT, or a pair (CT, label map). Each is a NIfTI path, a path to a Zarr array, or an array; or a case of a store."""


class WindowReader:
    """Reads windows of many cases in one call, into memory of the caller.

    A store is not required: the same calls read NIfTI files and arrays, in stored axis order and at their own spacing.
    A case of a store is read faster, and has canonical axes and the training spacing. Reading is safe from several
    threads, and in forked and spawned workers.

    Args:
        cases: One CT, or one pair (CT, label map), per case.
        cache_bytes: Maximum size of the cache of decoded store chunks [bytes]; 0: no cache.

    Raises:
        UnsupportedDataError: A case is not a 3D array of real numbers, or only one of CT and label map is in a store.
        WindowError: An image and its label map differ in shape.
        DataError, OSError: A file cannot be read.

    Example:
        >>> volume = np.arange(1000, dtype=np.int16).reshape(10, 10, 10)
        >>> reader = WindowReader([(volume, volume > 500)])
        >>> windows = reader.read([0, 0], [(4, 5, 8), (-1, 0, 0)], (2, 2, 3), hu_range=(0, 1000))
        >>> (1000 * windows.image[0, 0, 0]).round().tolist(), windows.label[0, 1, 1].tolist()
        ([458.0, 459.0, 0.0], [1, 1, 0])
    """

    def __init__(self, cases: Sequence[WindowCase], *, cache_bytes: int = 0) -> None:
        self.cache = ChunkCache(cache_bytes)
        # A case of a store is opened when its first window is read.
        self._cases = [
            case if isinstance(case, PreparedCase) else _pair(number, case) for number, case in enumerate(cases)
        ]

    def __len__(self) -> int:
        return len(self._cases)

    def shape(self, case: int) -> IntTriple:
        """Return the shape of a case [voxels]."""
        chosen = self._cases[case]
        a, b, c = (chosen if isinstance(chosen, PreparedCase) else chosen[0]).shape
        return (int(a), int(b), int(c))

    def grid(self, case: int, window_size: Sequence[int], *, overlap: float | Sequence[float] = 0.5) -> Int64Array:
        """Return the corners of windows that cover a case; see :func:`patchcore.windows.blending.window_grid`."""
        return window_grid(self.shape(case), window_size, overlap=overlap)

    @property
    def cache_counts(self) -> CacheCounts:
        """The size of the cache, and how often a chunk was found in it or not."""
        return self.cache.counts

    def read(
        self,
        cases: npt.ArrayLike,
        corners: npt.ArrayLike,
        window_size: Sequence[int],
        *,
        hu_range: tuple[float, float] | None = None,
        dtype: WindowDtype = "float32",
        with_labels: bool | None = None,
        padding: float = AIR_HU,
        out: AnyArray | None = None,
        label_out: npt.NDArray[np.uint8] | None = None,
        threads: int | None = None,
    ) -> Windows:
        """Read a batch of windows.

        Args:
            cases: Integers (windows,): case index of each window; or one index for all windows.
            corners: Integers (windows, 3): index of each window's first voxel. It may lie outside the case.
            window_size: Size of a window along each axis [voxels].
            hu_range: HU are clipped to this range and scaled to [0, 1]; voxels outside the case are 0. None: keep HU.
            dtype: ``float32``, ``float16``, ``bfloat16`` (its bits, as uint16) or ``int16`` (only without `hu_range`).
            with_labels: Whether to read labels too [default: if all of these cases have a label map].
            padding: HU outside the case if `hu_range` is None. Labels outside the case are 0.
            out: Array to fill: `dtype`, shape (windows, *window_size) or (windows, 1, *window_size), C order.
            label_out: Array to fill with labels: uint8, one of the same two shapes.
            threads: Number of threads [default: all cores]. The result does not depend on it.

        Returns:
            The windows, in `out` and `label_out` if given.

        Raises:
            WindowError: Counts, sizes or buffers do not fit, or labels are requested for a case without a label map.
            CorruptFileError: A file is damaged. The error names the file.
            UnsupportedDataError: A label does not fit into uint8.
            OSError: A file cannot be read.
        """
        return self.read_as(
            cases,
            corners,
            window_size,
            WindowFormat(hu_range, dtype, padding),
            with_labels=with_labels,
            out=out,
            label_out=label_out,
            threads=threads,
        )

    def read_as(
        self,
        cases: npt.ArrayLike,
        corners: npt.ArrayLike,
        window_size: Sequence[int],
        form: WindowFormat,
        *,
        ranges: Sequence[tuple[float, float]] | None = None,
        with_labels: bool | None = None,
        out: AnyArray | None = None,
        label_out: npt.NDArray[np.uint8] | None = None,
        threads: int | None = None,
    ) -> Windows:
        """Read a batch of windows in a given format. See :meth:`read`.

        Args:
            cases: See :meth:`read`.
            corners: See :meth:`read`.
            window_size: See :meth:`read`.
            form: Format of the windows.
            ranges: One HU range per window, instead of the range in `form`.
            with_labels: See :meth:`read`.
            out: See :meth:`read`.
            label_out: See :meth:`read`.
            threads: See :meth:`read`.
        """
        rows, size = corner_rows(corners), size_triple("window_size", window_size)
        chosen = self._chosen(cases, len(rows))
        if with_labels is None:
            with_labels = label_out is not None or all(map(self._has_label, chosen))
        lacking = [case for case in chosen if not self._has_label(case)] if with_labels else []
        if lacking:
            raise WindowError(
                f"case {lacking[0]} has no label map", remedy="pass a pair (CT, label map), or with_labels=False"
            )
        shape = (len(rows), *size)
        out = _buffer("out", out, len(rows), size, form.stored)
        label_out = _buffer("label_out", label_out, len(rows), size, np.dtype(np.uint8)) if with_labels else None
        flat, flat_label = out.reshape(shape), None if label_out is None else label_out.reshape(shape)
        self._check_apart([out] if label_out is None else [out, label_out], chosen, with_labels)
        in_store = [self._is_in_store(case, with_labels) for case in chosen]
        # One call for all windows if all cases are in a store or none is. This is the case in training.
        together = len(set(in_store)) < 2 and (ranges is None or all(in_store))
        groups = [slice(0, len(rows))] if together else [slice(n, n + 1) for n in range(len(rows))]
        for group in groups if len(rows) else ():
            self._read(
                chosen[group],
                rows[group],
                size,
                form,
                None if ranges is None else ranges[group],
                flat[group],
                None if flat_label is None else flat_label[group],
                threads,
            )
        return Windows(image=out, label=label_out, corners=rows)

    def _has_label(self, case: int) -> bool:
        chosen = self._cases[case]
        return isinstance(chosen, PreparedCase) or chosen[1] is not None

    def _volumes(self, case: int, with_labels: bool) -> list[Volume]:
        """Return the CT of a case, followed by its label map if it is needed."""
        chosen = self._cases[case]
        if isinstance(chosen, PreparedCase):
            return [chosen.image_array, chosen.label_array] if with_labels else [chosen.image_array]
        image, label = chosen
        return [image] if label is None or not with_labels else [image, label]

    def _is_in_store(self, case: int, with_labels: bool) -> bool:
        """Return whether the Rust core can read the case directly, from arrays that patchcore wrote."""
        volumes = self._volumes(case, with_labels)
        return all(isinstance(volume, StoredArray) and volume.core is not None for volume in volumes)

    def _check_apart(self, buffers: list[AnyArray], cases: Sequence[int], with_labels: bool) -> None:
        sources = [volume for case in set(cases) for volume in self._volumes(case, with_labels)]
        check_apart(buffers, [source for source in sources if isinstance(source, np.ndarray)])

    def _read(
        self,
        cases: Sequence[int],
        rows: Int64Array,
        size: IntTriple,
        form: WindowFormat,
        ranges: Sequence[tuple[float, float]] | None,
        out: AnyArray,
        label_out: npt.NDArray[np.uint8] | None,
        threads: int | None,
    ) -> None:
        """Read windows of cases that are all in arrays that patchcore wrote, or all elsewhere."""
        volumes = [self._volumes(case, label_out is not None) for case in cases]
        images, labels = [each[0] for each in volumes], [each[1] for each in volumes if len(each) > 1]
        if self._is_in_store(cases[0], label_out is not None):
            read_windows(
                [image for image in images if isinstance(image, StoredArray)],
                rows,
                size,
                form,
                ranges=ranges,
                labels=[label for label in labels if isinstance(label, StoredArray)] if labels else None,
                out=out,
                label_out=label_out,
                cache=self.cache,
                threads=threads,
            )
            return
        arrays, corners = _parts(images, rows, size, threads)
        maps = None if label_out is None else (*_parts(labels, rows, size, threads), label_out)
        own = form if ranges is None else replace(form, hu_range=ranges[0])
        extract_parts(arrays, corners, size, own, out=out, labels=maps, threads=threads)

    def _chosen(self, cases: npt.ArrayLike, count: int) -> list[int]:
        numbers = np.atleast_1d(np.asarray(cases))
        if numbers.size == 0:
            numbers = np.empty(0, np.int64)
        elif numbers.size == 1:
            numbers = np.repeat(numbers, count)
        if numbers.ndim != 1 or len(numbers) != count or numbers.dtype.kind not in "iu":
            raise WindowError(
                f"cases of shape {numbers.shape} for {count} corners", remedy="pass one case index per window"
            )
        chosen: list[int] = numbers.tolist()
        for case in chosen:
            if not 0 <= case < len(self):
                raise WindowError(f"case index {case} is not within 0 to {len(self) - 1}", remedy="count cases from 0")
        return chosen


def _pair(number: int, case: Any) -> tuple[Volume, Volume | None]:
    image, label = case if isinstance(case, tuple) else (case, None)
    volume = _volume(number, image, "image")
    if label is None:
        return volume, None
    other = _volume(number, label, "label")
    if tuple(other.shape) != tuple(volume.shape):
        raise WindowError(
            f"case {number}: label shape {tuple(other.shape)} does not match image {tuple(volume.shape)}",
            remedy="pair each CT with its own label map",
        )
    if isinstance(volume, StoredArray) != isinstance(other, StoredArray):
        raise UnsupportedDataError(
            f"case {number}: only one of image and label map is in a store",
            remedy="read both from the store, or both from files",
        )
    return volume, other


def _volume(number: int, source: Any, kind: Any) -> Volume:
    if isinstance(source, StoredArray | NiftiWindows):
        return source
    if isinstance(source, str | Path) or hasattr(source, "__fspath__"):
        path = Path(source)
        return StoredArray(path) if (path / "zarr.json").exists() else NiftiWindows(path, kind)
    array = np.asarray(source)
    if array.ndim != 3 or array.dtype.kind not in "biuf":
        raise UnsupportedDataError(
            f"case {number}: {kind} of shape {array.shape} and dtype {array.dtype} is not a 3D array of real numbers",
            expected="a path, or an array of three axes of real numbers",
            remedy="pass one channel of one volume",
        )
    return array


def _parts(
    volumes: Sequence[Volume], rows: Int64Array, size: IntTriple, threads: int | None
) -> tuple[list[AnyArray], Int64Array]:
    """Return, per window, an array with the voxels it needs, and the corner of the window in that array."""
    arrays: list[AnyArray] = []
    corners = rows.copy()
    for number, volume in enumerate(volumes):
        if isinstance(volume, np.ndarray):
            arrays.append(volume)
        else:
            array, corners[number] = (
                volume.window_part(rows[number], size, threads=threads)
                if isinstance(volume, StoredArray)
                else volume.window_part(rows[number], size)
            )
            arrays.append(array)
    return arrays, corners


def _buffer(name: str, buffer: AnyArray | None, count: int, size: IntTriple, dtype: np.dtype[Any]) -> AnyArray:
    if buffer is None:
        return np.empty((count, *size), dtype)
    check_buffer(name, buffer, dtype, count, size)
    return buffer
