"""Writes phantoms as NIfTI, plane by plane, so that only a few planes are in memory at a time."""

from __future__ import annotations

import io
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from patchcore.affines import spacing_of
from patchcore.files import replace_atomically
from patchcore.phantoms.case import PhantomCase, Planes
from patchcore.types import Float64Array, IntTriple, Triple

__all__ = ["Turn", "write_volumes"]

_LEVEL = 1
_AXES = {"R": (0, False), "L": (0, True), "A": (1, False), "P": (1, True), "S": (2, False), "I": (2, True)}


class Turn:
    """Reorders the axes of a canonical volume, to store it in another orientation.

    Args:
        codes: Axis codes of the stored axes, e.g. ``LPS``.
        shape: Size along the canonical axes x, y and z [voxels].
        affine: Affine of the canonical volume, float64 (4, 4).

    Example:
        >>> turn = Turn("LPS", (4, 5, 6), np.eye(4))
        >>> turn.shape, turn.affine[:3, 3].tolist()
        ((4, 5, 6), [3.0, 4.0, 0.0])
    """

    def __init__(self, codes: str, shape: IntTriple, affine: Float64Array) -> None:
        self._axes = [_AXES[code] for code in codes]
        a, b, c = (shape[axis] for axis, _ in self._axes)
        self.shape: IntTriple = (a, b, c)
        self._canonical = shape
        move = np.zeros((4, 4))
        move[3, 3] = 1
        for stored, (axis, reverse) in enumerate(self._axes):
            move[axis, stored] = -1 if reverse else 1
            move[axis, 3] = shape[axis] - 1 if reverse else 0
        self.affine: Float64Array = affine @ move

    @property
    def by_planes(self) -> bool:
        """Whether the stored planes are the canonical axial planes."""
        return self._axes[2][0] == 2

    def number(self, k: int) -> int:
        """Return the number of the canonical plane that is stored as plane `k`."""
        return self.shape[2] - 1 - k if self._axes[2][1] else k

    def point(self, voxel: Triple) -> Float64Array:
        """Convert a canonical voxel index to a stored voxel index, float64 (3,)."""
        return np.array(
            [self._canonical[axis] - 1 - voxel[axis] if reverse else voxel[axis] for axis, reverse in self._axes]
        )

    def plane(self, plane: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Convert a canonical plane (y, x) to a stored plane (second axis, first axis)."""
        (first, reverse_first), (_, reverse_second), _ = self._axes
        turned = plane if first == 0 else plane.T
        return turned[:: -1 if reverse_second else 1, :: -1 if reverse_first else 1]

    def volume(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Convert a whole canonical array (x, y, z) to the stored axes."""
        turned = np.transpose(array, [axis for axis, _ in self._axes])
        return turned[tuple(slice(None, None, -1 if reverse else 1) for _, reverse in self._axes)]


def write_volumes(
    case: Planes,
    codes: str,
    *,
    image: Path | None,
    label: Path | None,
    slab: int = 16,
    threads: int = 1,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Write image and label map of a phantom, each completely or not at all. Names that end in ``.gz`` are compressed.

    Args:
        case: The phantom.
        codes: Axis codes of the stored axes. For a phantom that is not held as whole arrays, the last is S or I.
        image: Path of the image. None: do not write it.
        label: Path of the label map. None: do not write it.
        slab: Number of planes between two calls of `advance`. It does not change the files.
        threads: Number of threads that draw planes while the calling thread compresses. It does not change the files.
        advance: Called with the number of planes written since the last call. It may raise to stop.

    Raises:
        OSError: A file cannot be written. An existing file at its path stays unchanged.
    """
    turn = Turn(codes, case.shape, case.affine)
    kinds: list[tuple[Path, str, Callable[[int], npt.NDArray[np.generic]]]] = []
    for path, dtype in ((image, "<i2"), (label, "u1")):
        if path is not None:
            kinds.append((path, dtype, _planes(case, turn, whole_image=dtype == "<i2")))
    with ExitStack() as stack:
        sinks = [stack.enter_context(_sink(path)) for path, _, _ in kinds]
        for sink, (_, dtype, _) in zip(sinks, kinds, strict=True):
            sink.write(_header(turn, dtype))
        pool = stack.enter_context(ThreadPoolExecutor(threads)) if threads > 1 else None

        def draw(k: int) -> list[npt.NDArray[np.generic]]:
            return [np.ascontiguousarray(plane(k), dtype=dtype) for _, dtype, plane in kinds]

        for drawn in _slabs(draw, turn.shape[2], slab, pool):
            for planes in drawn:
                for sink, plane in zip(sinks, planes, strict=True):
                    sink.write(plane.data)
            if advance is not None:
                advance(len(drawn))


def _slabs(
    draw: Callable[[int], list[npt.NDArray[np.generic]]], count: int, slab: int, pool: ThreadPoolExecutor | None
) -> Iterator[list[list[npt.NDArray[np.generic]]]]:
    """Yield the planes slab by slab. With a pool, the next slab is drawn at the same time."""
    parts = [range(start, min(start + slab, count)) for start in range(0, count, slab)]
    if pool is None:
        yield from ([draw(k) for k in part] for part in parts)
        return
    ahead: deque[list[Future[list[npt.NDArray[np.generic]]]]] = deque()
    try:
        for part in parts:
            ahead.append([pool.submit(draw, k) for k in part])
            if len(ahead) > 1:
                yield [future.result() for future in ahead.popleft()]
        yield [future.result() for future in ahead.popleft()]
    finally:
        for future in (future for futures in ahead for future in futures):
            future.cancel()


def _planes(case: Planes, turn: Turn, *, whole_image: bool) -> Callable[[int], npt.NDArray[np.generic]]:
    """Return a function that returns the stored plane `k` of the image or of the label map."""
    if isinstance(case, PhantomCase) and not turn.by_planes:
        turned = turn.volume(case.image if whole_image else case.label)
        return lambda k: turned[:, :, k].T
    draw = case.image_plane if whole_image else case.label_plane
    return lambda k: turn.plane(draw(turn.number(k)))


class _Sink:
    """Writes bytes to a file, with or without gzip compression."""

    def __init__(self, handle: BinaryIO, *, compress: bool) -> None:
        self._handle = handle
        # 31: gzip container. zlib writes neither a file name nor a time into it, so the bytes are reproducible.
        self._deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31) if compress else None

    def write(self, data: bytes | memoryview) -> None:
        self._handle.write(data if self._deflate is None else self._deflate.compress(data))

    def finish(self) -> None:
        if self._deflate is not None:
            self._handle.write(self._deflate.flush())


@contextmanager
def _sink(path: Path) -> Iterator[_Sink]:
    try:
        with replace_atomically(path) as temporary, temporary.open("wb", buffering=1 << 20) as handle:
            sink = _Sink(handle, compress=path.name.endswith(".gz"))
            yield sink
            sink.finish()
    except OSError as error:
        # If the disk is full, the write fails with an error without the file name.
        if error.filename is None:
            error.filename = str(path)
        raise


def _header(turn: Turn, dtype: str) -> bytes:
    import nibabel as nib

    header = nib.Nifti1Header()
    header.set_data_dtype(np.dtype(dtype))
    header.set_data_shape(turn.shape)
    header.set_zooms(spacing_of(turn.affine))
    header.set_xyzt_units("mm")
    header.set_qform(turn.affine, code=1)
    header.set_sform(turn.affine, code=1)
    header.set_slope_inter(1, 0)
    header["magic"], header["vox_offset"] = b"n+1", 352
    out = io.BytesIO()
    header.write_to(out)
    return out.getvalue() + bytes(352 - len(out.getvalue()))
