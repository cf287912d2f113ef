"""One array of a store: written whole, read as windows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from patchcore import _core
from patchcore.arrays import corner_rows, needed_part, size_triple, thread_count
from patchcore.errors import PatchcoreError, UnsupportedDataError, WindowError
from patchcore.files import write_json_atomic
from patchcore.store.layout import array_metadata, read_layout, shard_shape
from patchcore.types import AnyArray, IntTriple, PathLike, WindowDtype
from patchcore.windows.format import as_bits, window_dtype

__all__ = [
    "CacheCounts",
    "ChunkCache",
    "StoredArray",
    "Verified",
    "read_label_windows",
    "read_windows",
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


@cache
def _allow_open_files() -> None:
    """Let this process open as many files as it may: every shard that windows were read from stays open."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard == resource.RLIM_INFINITY or soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class StoredArray:
    """A Zarr array of a store, open for windows. Safe to use from several threads, and after a fork.

    One that somebody else has written, with any codec chain of Zarr v3, is read too, through zarrs and more slowly.

    Args:
        folder: The array's folder, with its ``zarr.json``.

    Raises:
        CorruptFileError: It is no array.
        UnsupportedDataError: Of another dtype or number of axes, or with codecs that are not known.
        FileNotFoundError: There is none.
    """

    def __init__(self, folder: PathLike) -> None:
        _allow_open_files()
        self.folder = Path(folder)
        self._layout = read_layout(self.folder)
        self._foreign: _core.ForeignArray | None = None
        self._ours: _core.StoredArray | None = None
        if self._layout.ours:
            self._ours = _core.StoredArray(
                self.folder,
                shape=self._layout.shape,
                shard=self._layout.shard,
                dtype=self._layout.dtype,
                fill=self._layout.fill,
            )
        else:
            with self._named():
                self._foreign = _core.ForeignArray(self.folder)

    def __reduce__(self) -> tuple[type[StoredArray], tuple[Path]]:
        return (StoredArray, (self.folder,))

    @property
    def shape(self) -> IntTriple:
        """Voxels along x, y, z."""
        return self._layout.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """int16 (HU) or uint8 (class indices); whatever it is where somebody else has written it."""
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
        if self._foreign is not None:
            return self.part((0, 0, 0), self.shape)
        corner = np.zeros((1, 3), np.int64)
        whole: npt.NDArray[Any]
        if self._layout.dtype == "uint8":
            whole = read_label_windows([self], corner, self.shape)[0]
        else:
            whole = read_windows([self], corner, self.shape, hu_range=None, dtype="int16")[0]
        return whole

    def part(self, start: IntTriple, stop: IntTriple, *, threads: int | None = None) -> npt.NDArray[Any]:
        """Read a part of an array that somebody else has written, in its own dtype, C order.

        Raises:
            CorruptFileError: A chunk is damaged.
        """
        assert self._foreign is not None
        with self._named():
            flat = self._foreign.read(start, stop, self._layout.dtype, threads=threads)
        return flat.reshape([b - a for a, b in zip(start, stop, strict=True)])

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except PatchcoreError as error:
            error.path = error.path or str(self.folder)
            raise

    def verify(self) -> Verified:
        """Read every chunk and compare its checksum.

        Raises:
            CorruptFileError: The first that is damaged; its file is named.
            OSError: A file cannot be read.
        """
        if self._ours is not None:
            return Verified(*self._ours.verify())
        shape, step = self.shape, self._layout.shard
        starts = itertools.product(*(range(0, n, edge) for n, edge in zip(shape, step, strict=True)))
        count = 0
        for a, b, c in starts:
            self.part((a, b, c), (min(a + step[0], shape[0]), min(b + step[1], shape[1]), min(c + step[2], shape[2])))
            count += 1
        files = [path for path in self.folder.rglob("*") if path.is_file() and path.name != "zarr.json"]
        return Verified(len(files), count, sum(path.stat().st_size for path in files))


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
    stored_dtype = window_dtype(dtype, hu_range)
    rows, size, flat = _prepared(arrays, corners, window_size, out, stored_dtype)
    if (labels is None) != (label_out is None):
        raise WindowError("labels and label_out belong together", remedy="pass both, or neither")
    flat_label = None
    if labels is not None:
        _, _, label_out = _prepared(labels, rows, size, label_out, np.dtype(np.uint8), "label_out")
        flat_label = label_out.reshape(-1)
    ranges = _ranges(hu_range)
    ours, label_ours = _all_ours(arrays), _all_ours(labels or ())
    if ours is None or label_ours is None:
        _read_each(arrays, labels, rows, size, ranges, dtype, padding, flat, label_out, threads)
        return flat
    _core.read_store_windows(
        ours,
        rows,
        size,
        as_bits(flat).reshape(-1),
        format=dtype,
        hu_range=ranges,
        padding=padding,
        labels=None if labels is None else label_ours,
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
    ours = _all_ours(arrays)
    if ours is None:
        nothing = np.empty((len(rows), *size), np.float32)
        _read_each(arrays, arrays, rows, size, None, "float32", 0.0, nothing, flat, threads)
    else:
        _core.read_store_label_windows(ours, rows, size, flat.reshape(-1), threads=thread_count(threads))
    return flat


def _all_ours(arrays: Sequence[StoredArray]) -> list[_core.StoredArray] | None:
    """Return what the core reads at once; None where somebody else has written one of them."""
    ours = [array._ours for array in arrays if array._ours is not None]
    return ours if len(ours) == len(arrays) else None


def _read_each(
    arrays: Sequence[StoredArray],
    labels: Sequence[StoredArray] | None,
    rows: npt.NDArray[np.int64],
    size: IntTriple,
    ranges: list[tuple[float, float]] | None,
    dtype: WindowDtype,
    padding: float,
    out: AnyArray,
    label_out: npt.NDArray[np.uint8] | None,
    threads: int | None,
) -> None:
    """Read windows one by one, of arrays that anybody has written."""
    for number in range(len(rows)):
        one = slice(number, number + 1)
        image, corner = _part_of(arrays[number], rows[number], size, threads)
        label, label_corner = (None, None)
        if labels is not None:
            label, label_corner = _part_of(labels[number], rows[number], size, threads)
        _core.extract_windows(
            [image],
            corner,
            size,
            as_bits(out[one]).reshape(-1),
            format=dtype,
            hu_range=None if ranges is None else ranges[min(number, len(ranges) - 1)],
            padding=padding,
            labels=None if label is None else [label],
            label_corners=label_corner,
            label_out=None if label is None or label_out is None else label_out[one].reshape(-1),
            threads=thread_count(threads),
        )


def _part_of(
    array: StoredArray, corner: npt.NDArray[np.int64], size: IntTriple, threads: int | None
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Return the part of an array that a window needs, at least one voxel, and the window's corner in it."""
    start, stop, moved = needed_part(corner, size, array.shape)
    if array._ours is not None:
        edge = (stop[0] - start[0], stop[1] - start[1], stop[2] - start[2])
        if array.dtype == np.uint8:
            part: npt.NDArray[Any] = read_label_windows([array], [start], edge, threads=threads)[0]
        else:
            part = read_windows([array], [start], edge, hu_range=None, dtype="int16", threads=threads)[0]
    else:
        part = array.part(start, stop, threads=threads)
    return part, moved[None]


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
