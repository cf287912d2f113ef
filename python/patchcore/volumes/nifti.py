"""Reading CT images and label maps from NIfTI, with every byte checked and no header believed unseen.

Arrays are in stored order (nibabel's i, j, k). Files are read by position, never mapped: a file that is cut
short under a memory map kills the process.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from patchcore.errors import CorruptFileError, DataError, HeaderError, NonIntegralLabelError, UnsupportedDataError
from patchcore.lesions.measure import read_header as read_nifti_header
from patchcore.study.cases import CaseRecord
from patchcore.types import Affine, IntTriple, PathLike, Triple
from patchcore.volumes.dicom.sources import is_index

__all__ = [
    "CtImage",
    "LabelMap",
    "VolumeHeader",
    "file_sha256",
    "orientation_code",
    "read_case_image",
    "read_case_label",
    "read_header",
    "read_image",
    "read_label",
    "spacing_of",
    "volume_files",
]

_CHUNK = 1 << 24


@dataclass(frozen=True)
class VolumeHeader:
    """What a file's header says, checked for what can be checked without reading voxels.

    `pixdim`, `sform` and `qform` are NIfTI's three ways to say where voxels lie, as they stand in the file.
    """

    path: Path
    data_path: Path
    shape: IntTriple
    affine: Affine
    spacing: Triple
    orientation: str
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    pixdim: Triple | None = None
    sform: Affine | None = None
    qform: Affine | None = None


@dataclass(frozen=True)
class CtImage:
    """A CT in HU: array (i, j, k), int16 or float32; affine voxel → world mm (RAS+); spacing in mm.

    `stored_dtype` is the type of the voxels in the file.
    """

    array: npt.NDArray[Any]
    affine: Affine
    spacing: Triple
    stored_dtype: np.dtype[Any]


@dataclass(frozen=True)
class LabelMap:
    """Integer classes: array (i, j, k); affine voxel → world mm (RAS+); spacing in mm per array axis."""

    array: npt.NDArray[Any]
    affine: Affine
    spacing: Triple


def read_case_image(record: CaseRecord) -> CtImage:
    """Read a case's CT from wherever it lies, placed by the case's own affine.

    That affine differs from the file's where the user has corrected a spacing.

    Raises:
        DataError: The case has no image, or as :func:`read_image`.
        OSError: A file cannot be opened or read.
    """
    if record.image is None:
        raise DataError(
            "has a label map but no image", case_id=record.case_id, remedy="add its CT, or exclude the case"
        )
    image = read_image(record.image)
    return replace(image, affine=record.affine_array, spacing=record.spacing)


def read_case_label(record: CaseRecord) -> LabelMap:
    """Read a case's label map from wherever it lies, placed by the case's own affine.

    Raises:
        DataError: As :func:`read_label`.
        OSError: A file cannot be opened or read.
    """
    label = read_label(record.label)
    return replace(label, affine=record.affine_array, spacing=record.spacing)


def volume_files(path: PathLike) -> list[Path]:
    """Return the files that make up one volume: the file, or header and data of an ``.hdr/.img`` pair."""
    path = Path(path)
    if is_index(path):
        from patchcore.volumes.dicom.volumes import dicom_files

        return dicom_files(path)
    if path.suffix == ".hdr":
        data = path.with_suffix(".img")
        return [path, data if data.exists() else data.with_suffix(".img.gz")]
    return [path]


def file_sha256(path: PathLike) -> str:
    """Return the SHA-256 of the bytes of a volume's files, hexadecimal."""
    digest = hashlib.sha256()
    for part in volume_files(path):
        with part.open("rb") as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def spacing_of(affine: Affine) -> Triple:
    """Return mm per voxel along each array axis: the column norms of the affine.

    Example:
        >>> spacing_of(np.diag([-2.0, 3.0, 5.0, 1.0]))
        (2.0, 3.0, 5.0)
    """
    with np.errstate(over="ignore"):
        a, b, c = (float(norm) for norm in np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))
    return (a, b, c)


def orientation_code(affine: Affine) -> str:
    """Return where each array axis points, to the closest world axis, as in ``"RAS"`` or ``"LPS"``."""
    from nibabel.orientations import aff2axcodes

    return "".join(str(code) for code in aff2axcodes(affine))


def read_header(path: PathLike) -> VolumeHeader:
    """Read and check a NIfTI header.

    Args:
        path: NIfTI-1 or 2: ``.nii``, ``.nii.gz``, or the ``.hdr`` of a pair.

    Raises:
        HeaderError: It is no NIfTI, contradicts the file's length, or its spacing is not positive and finite.
        CorruptFileError: The file ends within the header.
        UnsupportedDataError: Not 3D, or complex or RGB voxels.
        OSError: The file cannot be opened.
    """
    if is_index(path):
        from patchcore.volumes.dicom.volumes import read_dicom_header

        return read_dicom_header(path)
    path = Path(path)
    data_path = volume_files(path)[-1]
    header = read_nifti_header(path)
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


def read_image(path: PathLike) -> CtImage:
    """Read a CT image whole, to the last byte of its file.

    Args:
        path: NIfTI-1 or 2: ``.nii``, ``.nii.gz``, or the ``.hdr`` of a pair.

    Returns:
        The image in HU; int16 where it is stored as int16 without scaling, else float32.

    Raises:
        HeaderError: It is no NIfTI, contradicts the file's length, or its spacing is not positive and finite.
        CorruptFileError: The file ends early or fails its checksum.
        UnsupportedDataError: Not 3D, or complex or RGB voxels.
        OSError: The file cannot be opened or read.

    Example:
        >>> import nibabel, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "ct.nii.gz"
        >>> nibabel.save(nibabel.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.diag([1, 1, 5, 1])), path)
        >>> image = read_image(path)
        >>> image.array.shape, str(image.array.dtype), image.spacing
        ((4, 3, 2), 'int16', (1.0, 1.0, 5.0))
    """
    if is_index(path):
        from patchcore.volumes.dicom.volumes import read_dicom_image

        return read_dicom_image(path)
    header = read_header(path)
    stored = _read_voxels(header)
    plain = header.slope == 1.0 and header.intercept == 0.0
    if plain and stored.dtype == np.int16:
        return CtImage(stored, header.affine, header.spacing, header.dtype)
    # What float32 cannot hold becomes infinite, which the checks of HU refuse.
    with np.errstate(over="ignore", invalid="ignore"):
        array = stored.astype(np.float32, copy=False)
        if not plain:
            # In place on an array of our own: astype copied, unless the file itself held float32.
            array *= np.float32(header.slope)
            array += np.float32(header.intercept)
    return CtImage(array, header.affine, header.spacing, header.dtype)


def read_label(path: PathLike) -> LabelMap:
    """Read a label map whole; integral labels that are stored as float become integers.

    Args:
        path: NIfTI-1 or 2: ``.nii``, ``.nii.gz``, or the ``.hdr`` of a pair.

    Returns:
        The label map in its stored integer type, or in the smallest that holds its values.

    Raises:
        NonIntegralLabelError: A voxel is no integer.
        HeaderError: It is no NIfTI, contradicts the file's length, or its spacing is not positive and finite.
        CorruptFileError: The file ends early or fails its checksum.
        UnsupportedDataError: Not 3D, or complex or RGB voxels.
        OSError: The file cannot be opened or read.
    """
    if is_index(path):
        from patchcore.volumes.dicom.volumes import read_dicom_label

        return read_dicom_label(path)
    header = read_header(path)
    stored = _read_voxels(header)
    if header.slope != 1.0 or header.intercept != 0.0:
        with np.errstate(over="ignore", invalid="ignore"):
            stored = stored * np.float64(header.slope) + header.intercept
    if stored.dtype.kind == "f":
        stored = _integral(stored, header.path)
    return LabelMap(stored, header.affine, header.spacing)


def _integral(values: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    low, high = float(values.min()), float(values.max())
    # A signalling NaN raises a flag at every touch.
    with np.errstate(invalid="ignore"):
        integral = math.isfinite(low) and math.isfinite(high) and bool((values == np.rint(values)).all())
        fractions = None if integral else ~(np.isfinite(values) & (values == np.rint(values)))
    if fractions is not None:
        bad = np.argwhere(fractions)[0]
        where = tuple(int(n) for n in bad)
        raise NonIntegralLabelError(
            f"label {values[where]:g} at voxel {where} is no integer",
            path=path,
            found=float(values[where]),
            remedy="resample label maps with nearest neighbour, and export them as integers",
        )
    if low < -(2**63) or high >= 2**63:
        raise UnsupportedDataError(f"labels reach {high:g}", path=path, remedy="number labels from 1")
    return values.astype(np.result_type(np.min_scalar_type(int(low)), np.min_scalar_type(int(high))))


def _corrupt(path: Path, error: object) -> CorruptFileError:
    return CorruptFileError(
        f"the file ends early or is damaged ({error})", path=path, remedy="download or export it again"
    )


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as raw:
        if path.suffix == ".gz":
            with gzip.GzipFile(fileobj=raw) as unzipped:
                yield unzipped  # type: ignore[misc]
        else:
            yield raw


def _read_voxels(header: VolumeHeader) -> npt.NDArray[Any]:
    """Return the stored voxels, native byte order, Fortran order, read to the file's end: CRCs count."""
    count = math.prod(header.shape)
    try:
        flat = np.empty(count, dtype=header.dtype)
    except MemoryError:
        raise HeaderError(
            f"no memory for shape {header.shape}",
            path=header.path,
            found=header.shape,
            remedy="check the header",
        ) from None
    buffer = flat.view(np.uint8).data
    done = 0
    try:
        with _open(header.data_path) as handle:
            handle.seek(header.offset)
            while done < len(buffer):
                got = handle.readinto(buffer[done : done + _CHUNK])  # type: ignore[attr-defined]
                if not got:
                    raise _corrupt(header.path, f"{done} of {len(buffer)} bytes of voxels")
                done += got
            if header.data_path.suffix == ".gz":
                while handle.read(1 << 16):
                    pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _corrupt(header.path, error) from None
    if not flat.dtype.isnative:
        flat = flat.byteswap(inplace=True).view(flat.dtype.newbyteorder("="))
    return flat.reshape(header.shape, order="F")
