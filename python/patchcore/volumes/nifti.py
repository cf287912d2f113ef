"""Reads CT images and label maps from NIfTI files; arrays are in stored order (nibabel's i, j, k).

Every byte is checked. A size in a header is trusted only after the voxels have been read. Files are read by position
and never memory-mapped: if a memory-mapped file becomes shorter, the process dies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.affines import orientation_code
from patchcore.errors import NonIntegralLabelError, UnsupportedDataError
from patchcore.lesions.measure import read_header, read_voxels
from patchcore.types import PathLike
from patchcore.volumes.types import CtImage, LabelMap, VolumeHeader

__all__ = ["NEARLY_INTEGRAL", "nifti_files", "read_nifti_header", "read_nifti_image", "read_nifti_label"]

NEARLY_INTEGRAL = 1e-3
"""A stored label this close to an integer is that integer: resampling and scale factors leave small errors."""


def nifti_files(path: Path) -> list[Path]:
    """Return the files that make up one volume: the file, or header and data of an ``.hdr/.img`` pair.

    Example:
        >>> [file.name for file in nifti_files(Path("ct.HDR"))]
        ['ct.HDR', 'ct.IMG']
    """
    for suffix in (".hdr.gz", ".hdr"):
        if path.name.lower().endswith(suffix):
            stem, ending = path.name[: -len(suffix)], path.name[-len(suffix) :]
            plain = path.with_name(f"{stem}.{'IMG' if ending[1].isupper() else 'img'}")
            packed = plain.with_name(f"{plain.name}.gz")
            return [path, packed if not plain.exists() and packed.exists() else plain]
    return [path]


def read_nifti_header(path: PathLike) -> VolumeHeader:
    """Read and check a NIfTI header.

    Args:
        path: NIfTI-1 or 2: ``.nii``, ``.nii.gz``, or the ``.hdr`` of a pair.

    Raises:
        HeaderError: The file is not a NIfTI file, the header contradicts the file's length, or the spacing is not
            positive and finite.
        CorruptFileError: The file ends within the header.
        UnsupportedDataError: The volume is not 3D, or has complex or RGB voxels.
        OSError: The file cannot be opened.
    """
    path = Path(path)
    data_path = nifti_files(path)[-1]
    header = read_header(path)
    slope, intercept = header.scaling
    return VolumeHeader(
        path=path,
        data_path=data_path,
        shape=header.shape,
        affine=header.affine,
        spacing=header.spacing,
        orientation=orientation_code(header.affine),
        dtype=header.dtype,
        offset=header.data_offset,
        slope=slope,
        intercept=intercept,
        pixdim=header.pixdim,
        sform=header.sform,
        qform=header.qform,
    )


def read_nifti_image(path: PathLike) -> CtImage:
    """Read a whole CT image; its file is read to the last byte.

    Args:
        path: NIfTI-1 or 2: ``.nii``, ``.nii.gz``, or the ``.hdr`` of a pair.

    Returns:
        The image in HU; int16 if it is stored as int16 without scaling, otherwise float32.

    Raises:
        HeaderError: The file is not a NIfTI file, the header contradicts the file's length, or the spacing is not
            positive and finite.
        CorruptFileError: The file ends early or fails its checksum.
        UnsupportedDataError: The volume is not 3D, or has complex or RGB voxels.
        OSError: The file cannot be opened or read.

    Example:
        >>> import nibabel, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "ct.nii.gz"
        >>> nibabel.save(nibabel.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.diag([1, 1, 5, 1])), path)
        >>> image = read_nifti_image(path)
        >>> image.array.shape, str(image.array.dtype), image.spacing
        ((4, 3, 2), 'int16', (1.0, 1.0, 5.0))
    """
    stored, header = read_voxels(path)
    slope, intercept = header.scaling
    plain = slope == 1.0 and intercept == 0.0
    if plain and stored.dtype == np.int16:
        return CtImage(stored, header.affine, header.spacing)
    # Values beyond float32 become infinite; the HU checks reject them.
    with np.errstate(over="ignore", invalid="ignore"):
        array = stored.astype(np.float32, copy=False)
        if not plain:
            # In place is safe: astype made a copy, or `stored` is float32 and not used elsewhere.
            array *= np.float32(slope)
            array += np.float32(intercept)
    return CtImage(array, header.affine, header.spacing)


def read_nifti_label(path: PathLike) -> LabelMap:
    """Read a whole label map; integer labels that are stored as float become integers.

    Args:
        path: NIfTI-1 or 2: ``.nii``, ``.nii.gz``, or the ``.hdr`` of a pair.

    Returns:
        The label map in its stored integer type; if it is stored as float or with scaling, in the smallest integer
        type that holds its values. Values within 0.001 of an integer are rounded.

    Raises:
        NonIntegralLabelError: The value of a voxel is not within 0.001 of an integer.
        HeaderError: The file is not a NIfTI file, the header contradicts the file's length, or the spacing is not
            positive and finite.
        CorruptFileError: The file ends early or fails its checksum.
        UnsupportedDataError: The volume is not 3D, or has complex or RGB voxels.
        OSError: The file cannot be opened or read.
    """
    stored, header = read_voxels(path)
    slope, intercept = header.scaling
    if slope != 1.0 or intercept != 0.0:
        with np.errstate(over="ignore", invalid="ignore"):
            stored = stored * np.float64(slope) + intercept
    if stored.dtype.kind == "f":
        stored = _integral(stored, Path(path))
    return LabelMap(stored, header.affine, header.spacing)


def _integral(values: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    low, high = float(values.min()), float(values.max())
    # Every operation on a signalling NaN raises a floating-point flag.
    with np.errstate(invalid="ignore"):
        nearest = np.rint(values)
        # NaN and infinity are no integers either: their difference is NaN.
        wrong = ~(np.abs(values - nearest) <= NEARLY_INTEGRAL)
    if wrong.any():
        bad = np.argwhere(wrong)[0]
        where = tuple(int(n) for n in bad)
        raise NonIntegralLabelError(
            f"label {values[where]:g} at voxel {where} is not an integer",
            path=path,
            found=float(values[where]),
            remedy="threshold a soft mask (for example at 0.5); resample label maps with nearest neighbour",
        )
    if low < -(2**63) or high >= 2**63:
        raise UnsupportedDataError(
            f"labels from {low:g} to {high:g} do not fit into 64-bit integers", path=path, remedy="number labels from 1"
        )
    low, high = round(low), round(high)
    return np.asarray(nearest).astype(np.result_type(np.min_scalar_type(low), np.min_scalar_type(high)))
