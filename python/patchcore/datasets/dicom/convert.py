"""Convert a DICOM archive to NIfTI for ``patchcore import``, with tables that identify every segment."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.datasets.dicom.find import find_dicom
from patchcore.datasets.labels import MeasuredLabels, measure_labels
from patchcore.datasets.layouts.indices import with_indices
from patchcore.datasets.lesion_table import spreadsheet_text
from patchcore.datasets.measures import stamp_of
from patchcore.datasets.preload import load_readers
from patchcore.errors import DataError
from patchcore.files import read_json, replace_atomically, write_atomic, write_json_atomic
from patchcore.study.checks import CHECKS
from patchcore.study.layout import CaseFiles, Layout
from patchcore.threads import checked_threads, for_each
from patchcore.types import Affine, PathLike
from patchcore.volumes.dicom.names import lesion_like
from patchcore.volumes.dicom.options import SegmentOptions
from patchcore.volumes.nifti_write import gzipped, placed_image

__all__ = ["ImportProgress", "Imported", "ImportedCase", "import_dicom"]

_SCHEMA = 1
_LOG = "import.json"
_COLUMNS = ("case_id", "segment", "name", "label", "label_name", "voxel_count", "volume_mm3", "components", "lesions")


@dataclass(frozen=True)
class ImportedCase:
    """One case of an import; `problem` is the reason why it could not be written, `remedy` what to do about it."""

    case_id: str
    patient: str
    problem: str | None = None
    remedy: str | None = None
    reused: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImportProgress:
    """Progress: headers are being searched (``"search"``), or a case is done (``"cases"``)."""

    phase: str
    done: int
    total: int | None
    case: ImportedCase | None = None


@dataclass(frozen=True)
class Imported:
    """Result of an import."""

    out: Path
    layout: Layout
    cases: tuple[ImportedCase, ...]

    @property
    def written(self) -> tuple[ImportedCase, ...]:
        """Cases that are completely in the folder, including cases of an earlier import."""
        return tuple(case for case in self.cases if case.problem is None)

    @property
    def failed(self) -> tuple[ImportedCase, ...]:
        """Cases that could not be written."""
        return tuple(case for case in self.cases if case.problem is not None)


@dataclass
class _Log:
    """``import.json``: the source files of each case, so that an unchanged case is not written again."""

    path: Path
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, out: Path) -> _Log:
        log = cls(out / _LOG)
        if log.path.exists():
            cases = read_json(log.path, schema=_SCHEMA).get("cases")
            log.cases = dict(cases) if isinstance(cases, dict) else {}
        return log

    def write(self) -> None:
        ordered = {name: self.cases[name] for name in sorted(self.cases)}
        write_json_atomic(self.path, {"schema_version": _SCHEMA, "cases": ordered})


def import_dicom(
    dicom: PathLike,
    out: PathLike,
    *,
    segments: SegmentOptions | None = None,
    progress: Callable[[ImportProgress], None] | None = None,
    threads: int | None = None,
) -> Imported:
    """Write a DICOM archive as NIfTI: ``images/CASE.nii.gz``, ``labels/CASE.nii.gz``, ``dataset.json``, segments.

    ``segments.csv`` and ``segments.json`` list every segment with its own volume. This includes segments that overlap,
    although the label map can hold only one segment per voxel. Finished cases with unchanged files are skipped. Every
    file is written completely or not at all. A faulty case is reported and never stops the others.

    Args:
        dicom: Folder of the archive; it is only read.
        out: Folder of the NIfTI files: new, empty, or from an earlier import.
        segments: How segments are read; None: the defaults.
        progress: Called in the calling thread.
        threads: Number of cases processed at the same time; all cores by default.

    Raises:
        DataError: There is no DICOM file, `out` lies within `dicom`, or `out` contains other files.
        OSError: A folder cannot be read or written.
    """
    root, folder = Path(dicom).resolve(), Path(out).absolute()
    _check_folders(root, folder)
    checked_threads(threads)

    def searched(done: int, total: int | None) -> None:
        if progress is not None:
            progress(ImportProgress("search", done, total))

    layout = find_dicom(root, options=segments or SegmentOptions(), progress=searched)
    for name in ("images", "labels", ".sources"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    log = _Log.open(folder)
    indexed = with_indices(layout, folder / ".sources")
    load_readers(case.label for case in indexed.cases)
    results: dict[str, ImportedCase] = {}

    def done(_: int, outcome: tuple[ImportedCase, dict[str, Any] | None]) -> None:
        case, entry = outcome
        results[case.case_id] = case
        if entry is not None and not case.reused:
            log.cases[case.case_id] = entry
            log.write()
        elif entry is None:
            log.cases.pop(case.case_id, None)
        if progress is not None:
            progress(ImportProgress("cases", len(results), len(indexed.cases), case))

    # Read the log before the first thread runs: `done` changes it.
    known = [(case, log.cases.get(case.case_id)) for case in indexed.cases]
    for_each(lambda item: _convert(item[0], folder, item[1]), known, threads=threads, name="import", done=done)
    _forget(folder, log, {name for name, case in results.items() if case.problem is None})
    _write_tables(folder, log, layout.label_names)
    return Imported(folder, layout, tuple(results[case.case_id] for case in indexed.cases))


def _check_folders(root: Path, folder: Path) -> None:
    if not root.is_dir():
        raise DataError("the folder of DICOM files does not exist", path=root, remedy="check the path")
    if folder.resolve().is_relative_to(root):
        raise DataError("the output lies within the DICOM folder", path=folder, remedy="choose a folder outside it")
    if folder.exists() and not (folder / _LOG).exists():
        if not folder.is_dir():
            raise DataError("is a file, not a folder", path=folder, remedy="choose a new folder")
        if any(item.name not in ("images", "labels", ".sources") for item in folder.iterdir()):
            raise DataError(
                "contains files that are not from an import", path=folder, remedy="choose a new or empty folder"
            )


def _convert(
    case: CaseFiles, folder: Path, known: Mapping[str, Any] | None
) -> tuple[ImportedCase, dict[str, Any] | None]:
    """Write one case; return the case and its entry of the log."""
    patient = case.patient or case.case_id
    image = folder / "images" / f"{case.case_id}.nii.gz"
    label = folder / "labels" / f"{case.case_id}.nii.gz"
    if case.problem is not None:
        return ImportedCase(case.case_id, patient, case.problem, case.remedy), None
    try:
        made_from = _digest(case)
        if known is not None and known.get("made_from") == made_from and known.get("sizes") == _sizes(image, label):
            return ImportedCase(case.case_id, patient, reused=True, notes=tuple(known["notes"])), dict(known)
        notes: tuple[str, ...] = ()
        if case.image is not None:
            notes = case.image.header().notes
            ct = case.image.image()
            _write_nifti(image, ct.array, ct.affine)
            del ct
        else:
            image.unlink(missing_ok=True)
        painted = case.label.label_map()
        _write_nifti(label, painted.array, painted.affine)
        held = dict(zip(*np.unique(painted.array, return_counts=True), strict=True))
        del painted
        measured = measure_labels(case.label)
        if (wrong := _wrong(measured)) is not None:
            image.unlink(missing_ok=True)
            label.unlink(missing_ok=True)
            return ImportedCase(case.case_id, patient, *wrong), None
        lost = _lost(measured.segments, held)
    except (DataError, OSError, MemoryError) as error:
        text = error.message if isinstance(error, DataError) else str(error) or "does not fit into memory"
        if isinstance(error, DataError) and error.path is not None:
            text = f"{Path(error.path).name}: {text}"
        return ImportedCase(case.case_id, patient, text, getattr(error, "remedy", None)), None
    all_notes = (*notes, *(note.text for note in measured.notes), *lost)
    entry = {
        "patient": patient,
        "made_from": made_from,
        "sizes": _sizes(image, label),
        "segments": list(measured.segments),
        "notes": list(all_notes),
    }
    return ImportedCase(case.case_id, patient, notes=all_notes), entry


def _wrong(measured: MeasuredLabels) -> tuple[str, str] | None:
    """Return why the label map would be wrong, and the remedy; None if it would not.

    A label named like a lesion must not leave its CT; if no label is named so, none may. Contours on every second slice
    would become flat lesions, and a NIfTI file could not say so.
    """
    names = {int(segment["label"]): str(segment["label_name"]) for segment in measured.segments}
    lesions = {number for number, name in names.items() if lesion_like(name)} or set(names)
    for note in measured.notes:
        if note.check == "contour-gaps":
            return note.text, "interpolate with --interpolate-contours, or run patchcore analyze on the DICOM folder"
        if note.check == "roi-outside" and note.label in lesions:
            return note.text, CHECKS["lesion-outside"].remedy
    return None


def _lost(segments: Sequence[Mapping[str, Any]], held: Mapping[int, int]) -> list[str]:
    """Return notes on labels with fewer voxels in the label map than in their segments, because others cover them."""
    whole: dict[int, int] = {}
    names: dict[int, str] = {}
    for segment in segments:
        label = int(segment["label"])
        whole[label] = whole.get(label, 0) + int(segment["voxel_count"])
        names[label] = str(segment["label_name"])
    return [
        f"segments overlap: {names[label]} has {int(held.get(label, 0))} voxels in the label map, but {count} in its "
        "segments; segments.csv lists every segment, and patchcore analyze on the DICOM folder measures every segment"
        for label, count in sorted(whole.items())
        if int(held.get(label, 0)) < count
    ]


def _digest(case: CaseFiles) -> str:
    """Return a hash that changes when a source file of the case, or its index, changes."""
    digest = hashlib.sha256()
    for volume in (case.image, case.label):
        if volume is None:
            continue
        digest.update(volume.path.read_bytes())
        for file in volume.files()[1:]:
            stamp = stamp_of([file])
            digest.update(f"{stamp.size} {stamp.mtime_ns}\n".encode())
    return digest.hexdigest()


def _sizes(*files: Path) -> list[int]:
    return [file.stat().st_size if file.exists() else -1 for file in files]


def _write_nifti(path: Path, array: npt.NDArray[Any], affine: Affine) -> None:
    image = placed_image(array, affine)
    with replace_atomically(path) as temporary, temporary.open("wb") as raw, gzipped(raw) as packed:
        image.to_stream(packed)


def _forget(folder: Path, log: _Log, kept: set[str]) -> None:
    """Remove files and log entries of cases that are no longer in the archive or could not be written."""
    for name in ("images", "labels"):
        for file in (folder / name).glob("*.nii.gz"):
            if file.name.removesuffix(".nii.gz") not in kept:
                file.unlink()
    for case_id in set(log.cases) - kept:
        del log.cases[case_id]
    log.write()


def _write_tables(folder: Path, log: _Log, names: Mapping[int, str]) -> None:
    rows = [
        {"case_id": case_id, **segment} for case_id in sorted(log.cases) for segment in log.cases[case_id]["segments"]
    ]
    write_json_atomic(folder / "segments.json", {"schema_version": _SCHEMA, "segments": rows})
    table = io.StringIO()
    writer = csv.DictWriter(table, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        lesions = " ".join(str(n) for n in row["lesions"])
        writer.writerow({**row, "name": spreadsheet_text(row["name"]), "lesions": lesions})
    write_atomic(folder / "segments.csv", table.getvalue())
    labels = {"background": 0} | {name: number for number, name in sorted(names.items())}
    value = {
        "name": folder.name,
        "channel_names": {"0": "CT"},
        "labels": labels,
        "numTraining": len(log.cases),
        "file_ending": ".nii.gz",
    }
    write_json_atomic(folder / "dataset.json", value)
