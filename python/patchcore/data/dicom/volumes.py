"""Reading an indexed DICOM volume: header, CT in HU, label map. Axes are stored order: columns, rows, slices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from patchcore.types import PathLike

if TYPE_CHECKING:
    from patchcore.data.reading import CtImage, LabelMap, VolumeHeader

__all__ = ["dicom_files", "read_dicom_header", "read_dicom_image", "read_dicom_label"]


def dicom_files(path: PathLike) -> list[Path]:
    """Return the index and the DICOM files that it lists."""
    raise NotImplementedError


def read_dicom_header(path: PathLike) -> VolumeHeader:
    """Read the geometry of an indexed volume."""
    raise NotImplementedError


def read_dicom_image(path: PathLike) -> CtImage:
    """Read an indexed CT series in HU."""
    raise NotImplementedError


def read_dicom_label(path: PathLike) -> LabelMap:
    """Read an indexed SEG or RTSTRUCT as a label map on its CT's grid."""
    raise NotImplementedError
