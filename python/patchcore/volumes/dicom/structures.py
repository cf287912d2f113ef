"""Reads segments that are NIfTI files of their own: one mask per structure, as TotalSegmentator writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from patchcore.affines import MAX_CORNER_SHIFT, corner_shift
from patchcore.errors import ShapeMismatchError
from patchcore.types import BoolArray, IntTriple
from patchcore.volumes.dicom.grid import Grid
from patchcore.volumes.dicom.segments import Box, Segment
from patchcore.volumes.nifti import read_nifti_header, read_nifti_label

__all__ = ["read_structures"]


@dataclass
class _Structure(Segment):
    """A segment in a NIfTI file of its own; it is read whenever it is painted, so that one is in memory at a time."""

    def box(self, shape: IntTriple) -> Box:
        """Return the whole grid: the file is not read to find a smaller box."""
        return (0, 0, 0), shape

    def paint(self, volume: npt.NDArray[Any], value: int, start: IntTriple = (0, 0, 0)) -> None:
        """Write `value` at the voxels that are not 0; see :meth:`Segment.paint`."""
        mask: BoolArray = read_nifti_label(self.path).array != 0
        part = mask[tuple(slice(a, a + n) for a, n in zip(start, volume.shape, strict=True))]
        volume[part] = value


def read_structures(files: Sequence[Path], names: Sequence[str], grid: Grid) -> list[Segment]:
    """Return the masks as segments.

    Args:
        files: NIfTI files, one per structure.
        names: Name of the structure of each file.
        grid: Grid of the CT.

    Raises:
        ShapeMismatchError: A mask does not lie on the grid of the CT.
        DataError: A header is damaged.
        OSError: A file cannot be read.
    """
    segments: list[Segment] = []
    for number, (file, name) in enumerate(zip(files, names, strict=True), 1):
        header = read_nifti_header(file)
        same = header.shape == grid.shape
        if not same or corner_shift(grid.affine, header.affine, grid.shape) > MAX_CORNER_SHIFT:
            raise ShapeMismatchError(
                f"the mask of shape {header.shape} does not lie on the grid of the image, {grid.shape}",
                path=file,
                remedy="resample the mask onto the grid of the image",
            )
        segments.append(_Structure(number, name, file))
    return segments
