"""Finds the scans to predict: NIfTI files, DICOM series in folders or zip files. Knows no torch."""

from __future__ import annotations

import lzma
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from patchcore.datasets.dicom.find import find_cts
from patchcore.errors import CorruptFileError, DataError
from patchcore.volumes.types import CtImage
from patchcore.volumes.volume import DicomVolume, NiftiFile, Volume, read_image

__all__ = ["NIFTI_ENDING", "ScanInput", "found_scans"]

NIFTI_ENDING = re.compile(r"\.(nii|nii\.gz|hdr)$")
_COPY_BYTES = 1 << 20
# Headers and directory entries: a zip of DICOM files has a few thousand members.
_MOST_MEMBERS = 1_000_000


@dataclass(frozen=True)
class ScanInput:
    """One scan to predict.

    Attributes:
        name: Name for messages; for a DICOM series, its patient.
        path: The file, or a file of the series.
        stem: Name of the output without ending.
        volume: The scan; None if it cannot be used.
        problem: Why it cannot be used.
        notes: What has to be known about how it was read.
    """

    name: str
    path: Path
    stem: str
    volume: Volume | None
    problem: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def slices(self) -> tuple[tuple[str, int], ...] | None:
        """SOP instance and frame of each slice of a DICOM series, in the order of the array; None for NIfTI."""
        if not isinstance(self.volume, DicomVolume):
            return None
        return tuple((str(uid), int(frame)) for uid, frame in self.volume.source.details["slices"])

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the voxels."""
        if isinstance(self.volume, DicomVolume):
            return self.volume.source.files
        return (self.path,)

    def read(self) -> CtImage:
        """Read the scan.

        Raises:
            DataError: A file is damaged, or the scan cannot be used.
            OSError: A file cannot be read.
        """
        if self.volume is None:
            raise DataError(self.problem or "cannot be used", path=self.path)
        return read_image(self.volume)


@contextmanager
def found_scans(source: Path) -> Iterator[list[ScanInput]]:
    """Find the scans of a path; a zip file is unpacked for the time of the block.

    Args:
        source: A NIfTI file; a DICOM file, or a zip file or folder of them, with any subfolders; or a folder of NIfTI
            files.

    Raises:
        DataError: There is no scan.
        FileNotFoundError: The path does not exist.
        OSError: Something cannot be read.
    """
    if not source.exists():
        raise FileNotFoundError(2, "no such file or folder", str(source))
    with TemporaryDirectory(prefix="patchcore-predict-") as name:
        work = Path(name)
        yield _scans(source, work)


def _scans(source: Path, work: Path) -> list[ScanInput]:
    if source.is_dir():
        files = sorted(path for path in source.iterdir() if NIFTI_ENDING.search(path.name) and path.name[0] != ".")
        if files:
            return [_nifti(path) for path in files]
        return _series(source, work, source)
    if NIFTI_ENDING.search(source.name):
        return [_nifti(source)]
    unpacked = work / "files"
    unpacked.mkdir()
    if source.suffix.lower() == ".zip":
        _unpack(source, unpacked)
    else:
        (unpacked / "scan.dcm").symlink_to(source.resolve())
    return _series(unpacked, work, source)


def _nifti(path: Path) -> ScanInput:
    return ScanInput(path.name, path, NIFTI_ENDING.sub("", path.name), NiftiFile(path))


def _series(folder: Path, work: Path, source: Path) -> list[ScanInput]:
    cases = find_cts(folder)
    if not cases:
        raise DataError(
            "contains no NIfTI file and no DICOM CT series",
            path=source,
            remedy="give a CT as .nii.gz, or the folder or zip file of its DICOM slices",
        )
    found = []
    for number, case in enumerate(cases):
        image = case.image
        if not isinstance(image, DicomVolume):
            problem = "; ".join(filter(None, (case.problem, case.remedy)))
            found.append(ScanInput(case.case_id, source, case.case_id, None, problem))
            continue
        notes = image.source.notes
        indexed = image.indexed(work / f"{number}.dicom.json")
        found.append(ScanInput(case.case_id, source, case.case_id, indexed, notes=notes))
    return found


def _unpack(source: Path, folder: Path) -> None:
    """Unpack the files of a zip under names of our own: no path in it is followed."""
    try:
        with zipfile.ZipFile(source) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _check_size(source, members, folder)
            for number, member in enumerate(members):
                with archive.open(member) as packed, (folder / f"{number:07d}.dcm").open("wb") as out:
                    left = member.file_size
                    while block := packed.read(min(_COPY_BYTES, left + 1)):
                        left -= len(block)
                        if left < 0:
                            raise CorruptFileError(f"{member.filename} is larger than the zip says", path=source)
                        out.write(block)
    except OSError as error:
        if error.errno is not None:
            raise
        raise _bad_zip(source, error) from None  # what a damaged bzip2 stream raises
    except (
        zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, ValueError
    ) as error:  # fmt: skip
        if isinstance(error, DataError):
            raise
        raise _bad_zip(source, error) from None


def _bad_zip(source: Path, error: Exception) -> CorruptFileError:
    return CorruptFileError(
        f"is not a zip file that can be read ({error})", path=source, remedy="copy it again, or unpack it yourself"
    )


def _check_size(source: Path, members: Sequence[zipfile.ZipInfo], folder: Path) -> None:
    total = sum(member.file_size for member in members)
    free = shutil.disk_usage(folder).free
    if len(members) > _MOST_MEMBERS or total > free // 2:
        raise DataError(
            f"would unpack to {len(members)} files of {total / 1e9:.1f} GB in all; {folder.parent} has "
            f"{free / 1e9:.1f} GB free",
            path=source,
            remedy="unpack it where there is room, and give the folder; TMPDIR chooses the place",
        )
