"""Reads windows of a NIfTI file without reading the whole file: one positioned read per slice."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from patchcore.arrays import needed_part
from patchcore.errors import CorruptFileError, NonIntegralLabelError
from patchcore.types import Int64Array, IntTriple, PathLike
from patchcore.volumes.nifti import read_nifti_header, read_nifti_image, read_nifti_label

__all__ = ["NiftiWindows"]


class NiftiWindows:
    """Reads windows of a CT or a label map in a NIfTI file; axes are in stored order.

    An uncompressed file is read by position, with one read per slice of a window. A compressed file is decoded as a
    whole when the first window is read, and then kept in memory.

    Args:
        path: ``.nii``, ``.nii.gz``, or the ``.hdr`` of a pair.
        kind: ``"image"`` if voxels are HU, ``"label"`` if they are labels.

    Raises:
        HeaderError, CorruptFileError, UnsupportedDataError: See :func:`patchcore.volumes.nifti.read_nifti_header`.
        OSError: The file cannot be opened.
    """

    def __init__(self, path: PathLike, kind: Literal["image", "label"] = "image") -> None:
        self.path = Path(path)
        self.kind = kind
        self._header = read_nifti_header(self.path)
        self._whole: npt.NDArray[Any] | None = None
        self._file: int | None = None
        if self._header.data_path.suffix.lower() != ".gz":
            self._file = os.open(self._header.data_path, os.O_RDONLY)

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[type[NiftiWindows], tuple[Path, str]]:
        return (NiftiWindows, (self.path, self.kind))

    @property
    def shape(self) -> IntTriple:
        """Number of voxels per axis, stored axis order."""
        return self._header.shape

    def window_part(self, corner: Int64Array, window_size: IntTriple) -> tuple[npt.NDArray[Any], Int64Array]:
        """Read the part of the file that a window needs.

        Args:
            corner: First voxel of the window; it may lie outside the volume.
            window_size: Number of voxels of the window per axis.

        Returns:
            An array that holds the window's voxels, and the window's corner in this array. Scaled HU are float32.

        Raises:
            CorruptFileError: The file ends early.
            NonIntegralLabelError: A label is not an integer.
            OSError: The file cannot be read.
        """
        if self._file is None:
            if self._whole is None:
                read = read_nifti_image if self.kind == "image" else read_nifti_label
                self._whole = read(self.path).array
            return self._whole, corner
        start, stop, moved = needed_part(corner, window_size, self._header.shape)
        return self._decoded(self._read(start, stop)), moved

    def _read(self, low: Sequence[int], high: Sequence[int]) -> npt.NDArray[Any]:
        """Read each slice from the first to the last row of the window."""
        header = self._header
        columns, rows, _ = header.shape
        unit = header.dtype.itemsize
        span = (high[1] - 1 - low[1]) * columns + high[0] - low[0]
        slices = np.empty((high[2] - low[2], span), dtype=header.dtype)
        assert self._file is not None
        for number, row in enumerate(slices):
            start = ((low[2] + number) * rows + low[1]) * columns + low[0]
            done, view = 0, memoryview(row.view(np.uint8))
            while done < len(view):
                got = os.preadv(self._file, [view[done:]], header.offset + start * unit + done)
                if not got:
                    raise CorruptFileError(
                        "the file ends before its last voxel",
                        path=header.data_path,
                        remedy="download or export it again",
                    )
                done += got
        return np.lib.stride_tricks.as_strided(
            slices,
            shape=(high[0] - low[0], high[1] - low[1], high[2] - low[2]),
            strides=(unit, columns * unit, span * unit),
            writeable=False,
        )

    def _decoded(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the HU or the labels that stored values represent."""
        header = self._header
        plain = header.slope == 1.0 and header.intercept == 0.0
        if self.kind == "image":
            if plain:
                return stored
            return stored.astype(np.float32) * np.float32(header.slope) + np.float32(header.intercept)
        if plain and stored.dtype.kind in "iub":
            return stored
        with np.errstate(invalid="ignore", over="ignore"):
            values = stored * np.float64(header.slope) + header.intercept
            whole = np.isfinite(values) & (values == np.rint(values)) & (np.abs(values) < 2**53)
        if not whole.all():
            raise NonIntegralLabelError(
                f"label {values[~whole][0]:g} is not an integer",
                path=self.path,
                remedy="resample label maps with nearest neighbour, and export them as integers",
            )
        return values.astype(np.int64)
