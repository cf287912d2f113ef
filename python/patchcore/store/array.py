"""One array of a store: written whole, read as windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from patchcore import _core
from patchcore._arguments import corner_rows, size_triple, thread_count
from patchcore.errors import UnsupportedDataError, WindowError
from patchcore.files import write_json_atomic
from patchcore.store.layout import array_metadata, read_layout, shard_shape
from patchcore.types import AnyArray, IntTriple, PathLike, WindowDtype

__all__ = [
    "CacheCounts",
    "ChunkCache",
    "StoredArray",
    "Verified",
    "read_label_windows",
    "read_windows",
    "window_dtype",
    "write_array",
]


@dataclass(frozen=True)
class Verified:
    """What was read and found sound: shard files, chunks that are there, and their bytes."""

    shards: int
    chunks: int
    bytes: int


def write_array(
    folder: PathLike,
    array: npt.NDArray[Any],
    *,
    fill: int = 0,
    attributes: Mapping[str, Any] | None = None,
    threads: int | None = None,
) -> int:
    """Write a volume as a Zarr v3 array into a folder that does not exist yet; every file is synced.

    Args:
        folder: Where to; its parent exists.
        array: Shape (x, y, z), int16 or uint8, any strides: flipped and transposed views are written as they are seen.
        fill: Value of the chunks that are left out since they hold nothing else.
        attributes: The user's, JSON.
        threads: Threads that compress; all cores by default.

    Returns:
        Bytes of all shards.

    Raises:
        UnsupportedDataError: Another dtype, or not 3D.
        OSError: The folder exists, or cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "image"
        >>> volume = np.arange(40**3, dtype=np.int16).reshape(40, 40, 40)
        >>> written = write_array(folder, volume)
        >>> stored = StoredArray(folder)
        >>> bool((stored.read() == volume).all())
        True
    """
    source = np.asarray(array)
    if source.ndim != 3 or source.dtype not in (np.int16, np.uint8) or not source.dtype.isnative or not source.size:
        raise UnsupportedDataError(
            f"an array of shape {source.shape} and dtype {source.dtype}",
            expected="three axes (x, y, z), int16 or uint8",
            remedy="pass HU as int16 and class indices as uint8",
        )
    shape = _shape(source)
    thin = max(range(3), key=lambda axis: abs(source.strides[axis]))
    shard = shard_shape(shape, source.dtype.itemsize, thin_axis=thin)
    folder = Path(folder)
    folder.mkdir()
    written: int = _core.write_store_region(
        folder, source, shape=shape, shard=shard, start=(0, 0, 0), fill=fill, threads=thread_count(threads)
    )
    metadata = array_metadata(shape, shard, source.dtype.name, fill=fill, attributes=attributes)
    write_json_atomic(folder / "zarr.json", metadata)
    return written


class StoredArray:
    """A Zarr array of a store, open for windows. Safe to use from several threads, and after a fork.

    Args:
        folder: The array's folder, with its ``zarr.json``.

    Raises:
        CorruptFileError: It is no array, or not one of three axes.
        UnsupportedDataError: Written by somebody else, in a way that is not read here.
        FileNotFoundError: There is none.
    """

    def __init__(self, folder: PathLike) -> None:
        self.folder = Path(folder)
        self._layout = read_layout(self.folder)
        self._core = _core.StoredArray(
            self.folder,
            shape=self._layout.shape,
            shard=self._layout.shard,
            dtype=self._layout.dtype,
            fill=self._layout.fill,
        )

    def __reduce__(self) -> tuple[type[StoredArray], tuple[Path]]:
        return (StoredArray, (self.folder,))

    @property
    def shape(self) -> IntTriple:
        """Voxels along x, y, z."""
        return self._layout.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """int16 (HU) or uint8 (class indices)."""
        return np.dtype(self._layout.dtype)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What was stored beside the voxels."""
        return self._layout.attributes

    def read(self) -> npt.NDArray[Any]:
        """Read the whole array, in its own dtype, C order.

        Raises:
            CorruptFileError: A chunk is damaged; its file is named.
            OSError: A file cannot be read.
        """
        corner = np.zeros((1, 3), np.int64)
        whole: npt.NDArray[Any]
        if self._layout.dtype == "uint8":
            whole = read_label_windows([self], corner, self.shape)[0]
        else:
            whole = read_windows([self], corner, self.shape, hu_range=None, dtype="int16")[0]
        return whole

    def verify(self) -> Verified:
        """Read every chunk and compare its checksum.

        Raises:
            CorruptFileError: The first that is damaged; its file is named.
            OSError: A file cannot be read.
        """
        return Verified(*self._core.verify())


class ChunkCache:
    """Decoded chunks of all arrays that are read with it, up to a number of bytes; what is asked for stays longest.

    Threads share it. In a forked child it is empty and stays so.

    Args:
        most_bytes: Bytes it may hold; a chunk of a CT has 27 KiB.

    Raises:
        WindowError: Less than nothing.

    Example:
        >>> ChunkCache(1 << 20).counts
        CacheCounts(bytes=0, hits=0, misses=0)
    """

    def __init__(self, most_bytes: int) -> None:
        if most_bytes < 0:
            raise WindowError(f"a cache of {most_bytes} bytes", expected="0 or more", remedy="leave it out for none")
        self.most_bytes = int(most_bytes)
        self._core = _core.ChunkCache(self.most_bytes)

    def __reduce__(self) -> tuple[type[ChunkCache], tuple[int]]:
        return (ChunkCache, (self.most_bytes,))

    @property
    def counts(self) -> CacheCounts:
        """What it holds, and how often a chunk was found in it."""
        return CacheCounts(*self._core.counts())


class CacheCounts(NamedTuple):
    """Bytes held; chunks found, and not found, so far."""

    bytes: int
    hits: int
    misses: int


def read_windows(
    arrays: Sequence[StoredArray],
    corners: npt.ArrayLike,
    window_size: Sequence[int],
    *,
    hu_range: tuple[float, float] | Sequence[tuple[float, float]] | None,
    dtype: WindowDtype = "float32",
    padding: float = 0.0,
    labels: Sequence[StoredArray] | None = None,
    out: AnyArray | None = None,
    label_out: npt.NDArray[np.uint8] | None = None,
    cache: ChunkCache | None = None,
    threads: int | None = None,
) -> AnyArray:
    """Read a batch of windows of HU: decoded, clipped, scaled and placed in one pass, the GIL released.

    Args:
        arrays: The array of each window; they may repeat.
        corners: Integers (windows, 3): array index of each window's first voxel; anything, also outside the array.
        window_size: Voxels of a window along x, y, z.
        hu_range: Clipped to and scaled to [0, 1]; what lies outside the array is 0. One for all windows, or one for
            each. None: HU as they are.
        dtype: ``float32``, ``float16``, ``bfloat16`` (its bits, as uint16) or ``int16`` (HU as they are).
        padding: Value outside the array where `hu_range` is None.
        labels: The label array of each window, read into `label_out` in the same call.
        out: Of `dtype`, (windows, x, y, z), C order, to be filled; a new array by default.
        label_out: uint8 of that shape.
        cache: Where decoded chunks are looked for first, and kept.
        threads: Threads; all cores by default.

    Returns:
        `out`.

    Raises:
        WindowError: Numbers of arrays and corners differ, or a buffer does not fit.
        CorruptFileError: A chunk is damaged; its file is named.
        OSError: A file cannot be read.
    """
    rows, size, flat = _prepared(arrays, corners, window_size, out, window_dtype(dtype, hu_range))
    if (labels is None) != (label_out is None):
        raise WindowError("labels and label_out belong together", remedy="pass both, or neither")
    flat_label = None
    if labels is not None:
        _, _, label_out = _prepared(labels, rows, size, label_out, np.dtype(np.uint8), "label_out")
        flat_label = label_out.reshape(-1)
    _core.read_store_windows(
        [array._core for array in arrays],
        rows,
        size,
        _bits(flat).reshape(-1),
        format=dtype,
        hu_range=_ranges(hu_range),
        padding=padding,
        labels=None if labels is None else [array._core for array in labels],
        label_out=flat_label,
        cache=None if cache is None or not cache.most_bytes else cache._core,
        threads=thread_count(threads),
    )
    return flat


def _ranges(
    hu_range: tuple[float, float] | Sequence[tuple[float, float]] | None,
) -> list[tuple[float, float]] | None:
    if hu_range is None:
        return None
    ranges = np.asarray(hu_range, dtype=np.float64)
    if ranges.size % 2 or ranges.ndim not in (1, 2) or ranges.shape[-1] != 2:
        raise WindowError(f"hu_range of shape {ranges.shape}", expected="two numbers, or two a window")
    return [(low, high) for low, high in ranges.reshape(-1, 2).tolist()]


def window_dtype(dtype: str, hu_range: object) -> np.dtype[Any]:
    """Return the NumPy dtype that windows of a format have.

    Raises:
        WindowError: There is no such format, or it cannot hold what is wanted.

    Example:
        >>> window_dtype("bfloat16", (-100, 300))
        dtype('uint16')
    """
    found = _DTYPES.get(dtype)
    if found is None:
        raise WindowError(f"dtype {dtype!r}", expected=list(_DTYPES), remedy="use float32")
    if dtype == "int16" and hu_range is not None:
        raise WindowError(
            "int16 cannot hold what is scaled to [0, 1]", remedy="leave hu_range out: int16 windows are HU as they are"
        )
    return np.dtype(found)


_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16, "int16": np.int16}


def _bits(array: AnyArray) -> AnyArray:
    return array.view(np.uint16) if array.dtype == np.float16 else array


def read_label_windows(
    arrays: Sequence[StoredArray],
    corners: npt.ArrayLike,
    window_size: Sequence[int],
    *,
    out: npt.NDArray[np.uint8] | None = None,
    threads: int | None = None,
) -> npt.NDArray[np.uint8]:
    """Read a batch of windows of class indices; what lies outside is 0. See :func:`read_windows`."""
    rows, size, flat = _prepared(arrays, corners, window_size, out, np.dtype(np.uint8))
    _core.read_store_label_windows(
        [array._core for array in arrays], rows, size, flat.reshape(-1), threads=thread_count(threads)
    )
    return flat


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
        raise WindowError(f"{len(arrays)} arrays and {len(rows)} corners", remedy="give each window its array")
    shape = (len(rows), *size)
    if out is None:
        return rows, size, np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous or not out.flags.writeable:
        raise WindowError(
            f"{name} is {out.dtype} {out.shape}", expected=f"{dtype} {shape}, C order, writable", remedy="leave it out"
        )
    return rows, size, out


def _shape(array: npt.NDArray[Any]) -> IntTriple:
    return (int(array.shape[0]), int(array.shape[1]), int(array.shape[2]))
