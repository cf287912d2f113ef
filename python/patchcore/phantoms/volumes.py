"""Writing phantoms as NIfTI, plane by plane: nothing but a few planes is ever held."""

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
    """How a canonical volume is turned to be stored in another orientation.

    Args:
        codes: Axis codes of the stored axes, e.g. ``LPS``.
        shape: Canonical, voxels along x, y and z.
        affine: Canonical, float64 (4, 4).

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
        """Whether stored planes are the canonical axial ones."""
        return self._axes[2][0] == 2

    def number(self, k: int) -> int:
        """Return the canonical plane that is stored as the `k`-th."""
        return self.shape[2] - 1 - k if self._axes[2][1] else k

    def point(self, voxel: Triple) -> Float64Array:
        """Return the stored voxel index, float64 (3,), of a canonical one."""
        return np.array(
            [self._canonical[axis] - 1 - voxel[axis] if reverse else voxel[axis] for axis, reverse in self._axes]
        )

    def plane(self, plane: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Return a canonical plane (y, x) as it is stored: (second axis, first axis)."""
        (first, reverse_first), (_, reverse_second), _ = self._axes
        turned = plane if first == 0 else plane.T
        return turned[:: -1 if reverse_second else 1, :: -1 if reverse_first else 1]

    def volume(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Return a whole canonical array (x, y, z) as it is stored."""
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
    """Write a phantom's image and label map, each whole or not at all; names ending in ``.gz`` are compressed.

    Args:
        case: The phantom.
        codes: Axis codes to store it in; for what is not held, the last is S or I.
        image: Where to write the image; None: nowhere.
        label: Where to write the label map; None: nowhere.
        slab: Planes between two calls of `advance`; never changes a byte.
        threads: How many draw planes, while this one compresses; never changes a byte.
        advance: Told the planes done since the last call; may raise to give up.

    Raises:
        OSError: A file cannot be written; what was at its place is untouched.
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
    """Yield the planes slab by slab; on a pool, the next slab is drawn meanwhile."""
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
    """Return what gives the `k`-th stored plane of the image or of the label map."""
    if isinstance(case, PhantomCase) and not turn.by_planes:
        turned = turn.volume(case.image if whole_image else case.label)
        return lambda k: turned[:, :, k].T
    draw = case.image_plane if whole_image else case.label_plane
    return lambda k: turn.plane(draw(turn.number(k)))


class _Sink:
    """Writes bytes to a file, through gzip or not."""

    def __init__(self, handle: BinaryIO, *, compress: bool) -> None:
        self._handle = handle
        # 31: the gzip container, which zlib gives neither a name nor a time.
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
        # A full disk is told by the write, which knows no name.
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
