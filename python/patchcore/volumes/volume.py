"""One type for every volume on disk: a NIfTI file, or the files of a DICOM volume that an index lists.

Code outside this package reads a volume without knowing which of the two it is.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator

from patchcore.lesions.measure import LesionSpans, lesion_spans
from patchcore.types import PathLike, Triple
from patchcore.volumes.ct import examine_ct_array, examine_ct_file
from patchcore.volumes.dicom.sources import INDEX_SUFFIX, DicomSource, read_source, write_source
from patchcore.volumes.nifti import nifti_files, read_nifti_header, read_nifti_image, read_nifti_label
from patchcore.volumes.types import CtExamination, CtImage, LabelMap, VolumeHeader

__all__ = ["DicomVolume", "NiftiFile", "Volume", "VolumeField", "read_header", "read_image", "read_label", "volume_at"]


class Volume(ABC):
    """A CT or a label map in files.

    Attributes:
        path: The NIfTI file, or the index of the DICOM files. A volume can be passed wherever a path is expected.
    """

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    @abstractmethod
    def is_streamed(self) -> bool:
        """Whether the Rust core reads the volume plane by plane. If not, the whole volume is read first."""

    @abstractmethod
    def files(self) -> list[Path]:
        """Return all files that make up the volume.

        Raises:
            DataError: The index of a DICOM volume is not valid.
            OSError: The index cannot be read.
        """

    @abstractmethod
    def header(self) -> VolumeHeader:
        """Read and check the header.

        Raises:
            DataError: See :func:`read_header`.
            OSError: A file cannot be opened.
        """

    @abstractmethod
    def image(self) -> CtImage:
        """Read the volume as a CT; its files are read to the last byte.

        Raises:
            DataError: See :func:`read_image`.
            OSError: A file cannot be opened or read.
        """

    @abstractmethod
    def label_map(self) -> LabelMap:
        """Read the volume as a label map.

        Raises:
            DataError: See :func:`read_label`.
            OSError: A file cannot be opened or read.
        """

    @abstractmethod
    def examine_ct(self, spans: LesionSpans | None, spacing: Triple) -> CtExamination:
        """Examine the volume as a CT; its files are read to the last byte.

        Args:
            spans: Lesions as spans along the first axis; HU are counted in and around them. None: no HU are counted.
            spacing: mm per voxel, stored axis order.

        Raises:
            DataError: See :func:`read_image`.
            OSError: A file cannot be opened or read.
        """

    @abstractmethod
    def spans(self, label: int, *, connectivity: int) -> LesionSpans:
        """Return the components of one label as spans along the first axis.

        Raises:
            DataError: See :func:`read_label`.
            OSError: A file cannot be opened or read.
        """

    @abstractmethod
    def moved(self, path: Path) -> Volume:
        """Return the same kind of volume at another path."""

    def sha256(self) -> str:
        """Return the SHA-256 of the bytes of all files, as hexadecimal text.

        Raises:
            OSError: A file cannot be read.
        """
        digest = hashlib.sha256()
        for part in self.files():
            with part.open("rb") as handle:
                while chunk := handle.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()


@dataclass(frozen=True)
class NiftiFile(Volume):
    """A NIfTI-1 or NIfTI-2 file: ``.nii``, ``.nii.gz``, or the ``.hdr`` of a pair."""

    path: Path

    @property
    def is_streamed(self) -> bool:  # noqa: D102
        return True

    def files(self) -> list[Path]:  # noqa: D102
        return nifti_files(self.path)

    def header(self) -> VolumeHeader:  # noqa: D102
        return read_nifti_header(self.path)

    def image(self) -> CtImage:  # noqa: D102
        return read_nifti_image(self.path)

    def label_map(self) -> LabelMap:  # noqa: D102
        return read_nifti_label(self.path)

    def examine_ct(self, spans: LesionSpans | None, spacing: Triple) -> CtExamination:  # noqa: D102
        return examine_ct_file(self.path, spans, spacing)

    def spans(self, label: int, *, connectivity: int) -> LesionSpans:  # noqa: D102
        return lesion_spans(self.path, labels=[label], connectivity=connectivity)

    def moved(self, path: Path) -> NiftiFile:  # noqa: D102
        return NiftiFile(path)


@dataclass(frozen=True)
class DicomVolume(Volume):
    """A DICOM CT series, or the SEG or RTSTRUCT objects that label one.

    Attributes:
        path: The index of the files; as long as `found` is set, the first file.
        found: The files, until :meth:`indexed` writes them to an index; then None.
    """

    path: Path
    found: DicomSource | None = field(default=None, compare=False)

    @classmethod
    def of(cls, source: DicomSource) -> DicomVolume:
        """Return the volume of files that have no index yet."""
        return cls(source.files[0], source)

    def indexed(self, index: Path) -> DicomVolume:
        """Write an index of the files, unless the volume has one already, and return the volume at the index.

        Raises:
            OSError: The index cannot be written.
        """
        return self if self.found is None else DicomVolume(write_source(self.found, index))

    @property
    def source(self) -> DicomSource:
        """The files and the facts known about them.

        Raises:
            DataError: The index is not valid.
            OSError: The index cannot be read.
        """
        return read_source(self.path) if self.found is None else self.found

    @property
    def is_streamed(self) -> bool:  # noqa: D102
        return False

    def files(self) -> list[Path]:  # noqa: D102
        return [*([self.path] if self.found is None else []), *self.source.files]

    def header(self) -> VolumeHeader:  # noqa: D102
        from patchcore.volumes.dicom.volumes import read_dicom_header

        return read_dicom_header(self.path)

    def image(self) -> CtImage:  # noqa: D102
        from patchcore.volumes.dicom.volumes import read_dicom_image

        return read_dicom_image(self.path)

    def label_map(self) -> LabelMap:  # noqa: D102
        from patchcore.volumes.dicom.volumes import read_dicom_label

        return read_dicom_label(self.path)

    def examine_ct(self, spans: LesionSpans | None, spacing: Triple) -> CtExamination:  # noqa: D102
        return examine_ct_array(self.image().array, spans, spacing)

    def spans(self, label: int, *, connectivity: int) -> LesionSpans:  # noqa: D102
        return lesion_spans(self.label_map().array, labels=[label], connectivity=connectivity)

    def moved(self, path: Path) -> DicomVolume:  # noqa: D102
        return DicomVolume(path)


def volume_at(path: Volume | PathLike) -> Volume:
    """Return the volume at a path; a volume is returned unchanged.

    Example:
        >>> volume_at("ct.nii.gz")
        NiftiFile(path=PosixPath('ct.nii.gz'))
    """
    if isinstance(path, Volume):
        return path
    path = Path(path)
    return DicomVolume(path) if path.name.endswith(INDEX_SUFFIX) else NiftiFile(path)


def read_header(source: Volume | PathLike) -> VolumeHeader:
    """Read and check a header.

    Args:
        source: A volume, or the path of a NIfTI file or of the index of a DICOM volume.

    Raises:
        HeaderError: The header is not valid or contradicts the file's length, or the spacing is not positive and
            finite.
        CorruptFileError: The file ends within the header.
        UnsupportedDataError: The volume is not 3D, or has complex or RGB voxels.
        OSError: A file cannot be opened.
    """
    return volume_at(source).header()


def read_image(source: Volume | PathLike) -> CtImage:
    """Read a whole CT image; its files are read to the last byte.

    Args:
        source: See :func:`read_header`.

    Returns:
        The image in HU. int16: NIfTI stored as int16 without scaling, or DICOM with integer HU within int16; otherwise
        float32.

    Raises:
        HeaderError: See :func:`read_header`.
        CorruptFileError: A file ends early or fails its checksum.
        UnsupportedDataError: The volume is not 3D, or has complex or RGB voxels.
        OSError: A file cannot be opened or read.
    """
    return volume_at(source).image()


def read_label(source: Volume | PathLike) -> LabelMap:
    """Read a whole label map; integer labels that are stored as float become integers.

    Args:
        source: See :func:`read_header`.

    Raises:
        NonIntegralLabelError: The value of a voxel is not an integer.
        HeaderError: See :func:`read_header`.
        CorruptFileError: A file ends early or fails its checksum.
        UnsupportedDataError: The volume is not 3D, or has complex or RGB voxels.
        OSError: A file cannot be opened or read.
    """
    return volume_at(source).label_map()


def _from_json(value: Any) -> Volume:
    if not isinstance(value, str | os.PathLike):
        raise ValueError("is not a path")
    return volume_at(value)


def _to_json(volume: Any) -> str:
    return str(volume.path)


VolumeField = Annotated[Volume, PlainValidator(_from_json), PlainSerializer(_to_json, return_type=str)]
"""A volume as a field of a pydantic model; JSON holds the volume's path."""
