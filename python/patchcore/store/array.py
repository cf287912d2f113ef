"""Writes, reads and verifies one array of a store."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from patchcore import _core
from patchcore.arrays import needed_part, thread_count
from patchcore.errors import PatchcoreError, UnsupportedDataError, WindowError
from patchcore.files import write_json_atomic
from patchcore.store.layout import (
    array_metadata,
    describe_shards,
    known_shards,
    missing_shards,
    read_layout,
    shard_shape,
)
from patchcore.types import IntTriple, PathLike

__all__ = [
    "CacheCounts",
    "ChunkCache",
    "StoredArray",
    "Verified",
    "write_array",
]


@dataclass(frozen=True)
class Verified:
    """The result of a verification: number of shard files, of existing chunks, and their bytes."""

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
    """Write a volume as a Zarr v3 array into a new folder. Every file is synced to disk.

    Args:
        folder: The new folder. Its parent must exist.
        array: Shape (x, y, z), int16 or uint8, any strides. Flipped and transposed views are supported.
        fill: Fill value. Chunks that contain only this value are not written.
        attributes: The user's attributes, as JSON values.
        threads: Number of threads for compression [default: all cores].

    Returns:
        Size of all shards [bytes].

    Raises:
        UnsupportedDataError: The array has another dtype, or is not 3D.
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
            f"array of shape {source.shape} and dtype {source.dtype}; expected three axes, int16 or uint8",
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
    described = describe_shards(folder, shape, shard) | dict(attributes or {})
    metadata = array_metadata(shape, shard, source.dtype.name, fill=fill, attributes=described)
    write_json_atomic(folder / "zarr.json", metadata)
    return written


@cache
def _allow_open_files() -> None:
    """Raise the limit of open files to its maximum: arrays keep their folders open, and shards while there is room."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard == resource.RLIM_INFINITY or soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class StoredArray:
    """A Zarr array of a store, opened for reading. Safe to use from several threads and after a fork.

    Arrays not written by patchcore, with any codecs of Zarr v3, are read too, through zarrs and more slowly.

    Args:
        folder: The array's folder, with its ``zarr.json``.

    Raises:
        CorruptFileError: The folder does not contain a valid Zarr array.
        UnsupportedDataError: The dtype, the number of axes or a codec is not supported.
        FileNotFoundError: There is no array.
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
                known=known_shards(self._layout),
            )
        else:
            with self._named():
                self._foreign = _core.ForeignArray(self.folder)

    def __reduce__(self) -> tuple[type[StoredArray], tuple[Path]]:
        return (StoredArray, (self.folder,))

    @property
    def shape(self) -> IntTriple:
        """Size along x, y, z [voxels]."""
        return self._layout.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """int16 (HU) or uint8 (class indices). Arrays not written by patchcore may have another dtype."""
        return np.dtype(self._layout.dtype)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The user's attributes, stored with the array."""
        return {name: value for name, value in self._layout.attributes.items() if name != "patchcore"}

    def read(self) -> npt.NDArray[Any]:
        """Read the whole array, in its own dtype, C order.

        Raises:
            CorruptFileError: A chunk is damaged. The error names its file.
            OSError: A file cannot be read.
        """
        return self.part((0, 0, 0), self.shape)

    def window_part(
        self, corner: npt.NDArray[np.int64], size: IntTriple, *, threads: int | None = None
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Read the part of an array that a window needs, and return it with the corner of the window in that part.

        The part has at least one voxel.

        Args:
            corner: Index of the window's first voxel. It may lie outside the array.
            size: Size of the window [voxels].
            threads: Number of threads [default: all cores].
        """
        start, stop, moved = needed_part(corner, size, self.shape)
        return self.part(start, stop, threads=threads), moved

    @property
    def core(self) -> _core.StoredArray | None:
        """The array as the Rust core reads it in batches; None for an array not written by patchcore."""
        return self._ours

    def part(self, start: IntTriple, stop: IntTriple, *, threads: int | None = None) -> npt.NDArray[Any]:
        """Read a part of the array, in its own dtype, C order.

        Args:
            start: Index of the first voxel of the part.
            stop: Index after the last voxel, along each axis.
            threads: Number of threads [default: all cores].

        Raises:
            CorruptFileError: A chunk is damaged.
            OSError: A file cannot be read.
        """
        a, b, c = (last - first for first, last in zip(start, stop, strict=True))
        if self._ours is None:
            assert self._foreign is not None
            with self._named():
                return self._foreign.read(start, stop, self._layout.dtype, threads=threads).reshape(a, b, c)
        part: npt.NDArray[Any] = np.empty((a, b, c), self.dtype)
        corner, flat = np.array([start], np.int64), part.reshape(-1)
        if self.dtype == np.uint8:
            _core.read_store_label_windows([self._ours], corner, part.shape, flat, threads=threads)
        else:
            _core.read_store_windows(
                [self._ours],
                corner,
                part.shape,
                flat,
                format="int16",
                hu_range=None,
                padding=0.0,
                labels=None,
                label_out=None,
                cache=None,
                threads=threads,
            )
        return part

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except PatchcoreError as error:
            error.path = error.path or str(self.folder)
            raise

    def missing(self) -> str | None:
        """Name a shard that is missing or has another size than it was written with; None if there is none."""
        return missing_shards(self.folder, self._layout)

    def verify(self) -> Verified:
        """Read every chunk and compare its checksum.

        Raises:
            CorruptFileError: A chunk is damaged. The error names the file of the first one.
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
    """A cache of decoded chunks, shared by arrays and threads. Recently used chunks stay longest.

    In a forked child process, the cache is empty and stays empty.

    Args:
        most_bytes: Maximum size [bytes]. A chunk of a CT has 27 KiB.

    Raises:
        WindowError: `most_bytes` is negative.

    Example:
        >>> ChunkCache(1 << 20).counts
        CacheCounts(bytes=0, hits=0, misses=0)
    """

    def __init__(self, most_bytes: int) -> None:
        if most_bytes < 0:
            raise WindowError(
                f"cache size of {most_bytes} bytes is negative", expected="0 or more", remedy="pass 0 for no cache"
            )
        self.most_bytes = int(most_bytes)
        self._core = _core.ChunkCache(self.most_bytes)

    def __reduce__(self) -> tuple[type[ChunkCache], tuple[int]]:
        return (ChunkCache, (self.most_bytes,))

    @property
    def counts(self) -> CacheCounts:
        """The size of the cache, and how often a chunk was found in it or not."""
        return CacheCounts(*self._core.counts())


class CacheCounts(NamedTuple):
    """Bytes in the cache; numbers of chunks found and not found so far."""

    bytes: int
    hits: int
    misses: int


def _shape(array: npt.NDArray[Any]) -> IntTriple:
    return (int(array.shape[0]), int(array.shape[1]), int(array.shape[2]))
