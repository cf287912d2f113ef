"""Names the outputs of a prediction, and refuses what would overwrite a file. Knows no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from patchcore.errors import ConfigError, DataError
from patchcore.inference.record import PredictionRecord
from patchcore.inference.scans import ScanInput
from patchcore.inference.seg import SegKind

__all__ = ["Wanted", "beside", "check_outputs", "check_writable", "files_of", "output_paths"]


@dataclass(frozen=True)
class Wanted:
    """What is written for each scan."""

    labels: bool
    tables: bool
    probabilities: bool
    seg: SegKind | None

    @property
    def names(self) -> list[str]:
        """What is asked for, as names for the record of a folder."""
        asked = {"labels": self.labels, "tables": self.tables, "probabilities": self.probabilities}
        return [*(name for name, is_asked in asked.items() if is_asked), *([f"seg {self.seg}"] if self.seg else [])]


def output_paths(scans: Sequence[ScanInput], source: Path, out: Path) -> list[Path]:
    """Return the label map of each scan."""
    usable = [scan for scan in scans if scan.volume is not None]
    is_file_name = re.search(r"\.(nii(\.gz)?|dcm)$", out.name) is not None
    folder_of_nifti = source.is_dir() and scans[0].slices is None and scans[0].volume is not None
    if len(usable) > 1 or (folder_of_nifti and not is_file_name):
        if is_file_name and not out.is_dir():
            raise DataError(
                f"names one file, but {len(usable)} scans were found", path=out, remedy="give a folder with -o"
            )
        if out.exists() and not out.is_dir():
            raise DataError(
                "is a file, but several scans need an output folder", path=out, remedy="give a folder with -o"
            )
        return [out / f"{scan.stem}.nii.gz" for scan in scans]
    if out.is_dir():
        return [out / f"{scan.stem}.nii.gz" for scan in scans]
    if not is_file_name:
        raise ConfigError(
            f"{out.name!r} is neither a NIfTI file name nor an existing folder",
            path=out,
            remedy="use a name with .nii.gz or .nii, or .dcm for a DICOM SEG",
        )
    # Only the usable scan is written; the others are reported.
    return [out if scan.volume is not None else out.with_name(f"{scan.stem}.nii.gz") for scan in scans]


def check_outputs(
    scans: Sequence[ScanInput],
    outputs: Sequence[Path],
    wanted: Wanted,
    record: PredictionRecord,
    *,
    overwrite: bool,
) -> list[bool]:
    """Refuse outputs that would overwrite a file; return which scans are done already."""
    inputs = {file.resolve() for scan in scans for file in scan.files}
    seen: dict[Path, ScanInput] = {}
    done = []
    for scan, path in zip(scans, outputs, strict=True):
        other = seen.setdefault(path, scan)
        if other is not scan:
            raise DataError(
                f"{other.name} and {scan.name} would have the same output",
                path=path,
                remedy="rename one of them, or put them into different folders",
            )
        written = files_of(path, wanted)
        if any(file.resolve() in inputs for file in (path, *written)):
            raise DataError(
                "the output would overwrite the input", path=scan.path, remedy="choose another output with -o"
            )
        is_done = not overwrite and record.is_done(scan)
        if not overwrite and not is_done and not record.may_replace(scan):
            for file in written:
                if file.exists():
                    raise DataError(
                        "already exists", path=file, remedy="add --overwrite, or choose another output with -o"
                    )
        done.append(is_done)
    return done


def check_writable(folder: Path) -> None:
    """Fail before the work, not after it.

    Raises:
        OSError: Nothing can be written into the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder):
        pass


def files_of(path: Path, wanted: Wanted) -> list[Path]:
    """Return the files that may be written for a scan whose label map (or only SEG) is `path`."""
    files = [path] if wanted.labels or path.suffix.lower() == ".dcm" else []
    files += [beside(path, ".seg.dcm")] if wanted.seg is not None and path.suffix.lower() != ".dcm" else []
    files += [beside(path, ".probability.nii.gz")] if wanted.probabilities else []
    files += [beside(path, f".lesions.{ending}") for ending in ("csv", "json")] if wanted.tables else []
    return files


def beside(path: Path, ending: str) -> Path:
    """Return the file of the same name with another ending.

    Example:
        >>> beside(Path("out/scan.nii.gz"), ".seg.dcm").as_posix()
        'out/scan.seg.dcm'
    """
    return path.with_name(re.sub(r"\.(nii(\.gz)?|dcm)$", "", path.name) + ending)
