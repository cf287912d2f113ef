"""Search a folder for DICOM files by their content, not by their names; only headers are read."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from patchcore.errors import CorruptFileError, DataError, UnsupportedDataError
from patchcore.threads import core_count
from patchcore.volumes.dicom.objects import guarded, is_dicom, open_dataset, text
from patchcore.volumes.dicom.rtstruct import RTSTRUCT_CLASS, roi_names
from patchcore.volumes.dicom.segments import SEG_CLASSES, segment_names
from patchcore.volumes.dicom.slices import ENHANCED, PLANE_TAGS, Slice, slices_of

__all__ = ["CT_CLASS", "Broken", "Found", "Scan", "scan_folder"]

CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
_IDENTITY = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "PatientID",
    "Modality", *PLANE_TAGS,
)  # fmt: skip
_LABEL_TAGS = (
    "SOPClassUID", "SegmentationType", "SegmentSequence", "ReferencedSeriesSequence", "StructureSetROISequence",
    "ReferencedFrameOfReferenceSequence",
)  # fmt: skip
_FRAME_TAGS = (
    "Rows", "Columns", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "SOPInstanceUID",
)  # fmt: skip
# Endings of files that accompany images; a broken link to one of them loses no image.
_NEVER_DICOM = frozenset({".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".pdf", ".html", ".png", ".jpg", ".yml"})


@dataclass(frozen=True)
class Found:
    """One DICOM file."""

    path: Path
    kind: Literal["ct", "seg", "rtstruct", "other"]
    patient: str
    study: str
    series: str
    uid: str
    frame_of_reference: str
    modality: str
    slices: tuple[Slice, ...] = ()
    referenced_series: frozenset[str] = frozenset()
    referenced: frozenset[str] = frozenset()
    segments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Broken:
    """A file that begins like DICOM but cannot be read."""

    path: Path
    error: DataError | OSError


@dataclass
class Scan:
    """Result of the search of a folder."""

    found: list[Found] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)


def scan_folder(
    root: Path, *, progress: Callable[[int, int | None], None] | None = None, threads: int | None = None
) -> Scan:
    """Read the header of every DICOM file below a folder.

    Links to files are followed (DataLad and git-annex keep every file behind a link). Links to folders are followed if
    they stay below the folder. Each folder is visited once. A broken link is a file that cannot be read.

    Args:
        root: The folder.
        progress: Called in the calling thread with the number of finished files and the total.
        threads: Number of files read at the same time; by default all cores, but at most 8.

    Raises:
        OSError: The folder cannot be listed.
    """
    scan = Scan()
    files = list(_files(root, scan))
    executor = ThreadPoolExecutor(threads or min(8, core_count()), thread_name_prefix="dicom")
    try:
        for done, item in enumerate(executor.map(_scan_file, files, chunksize=1), start=1):
            if isinstance(item, Broken):
                scan.broken.append(item)
            elif item is not None:
                scan.found.append(item)
            if progress is not None and (done % 64 == 0 or done == len(files)):
                progress(done, len(files))
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
    return scan


def _files(root: Path, scan: Scan) -> Iterator[Path]:
    """Yield every file below a folder; the folders, and the links to folders elsewhere, are remembered."""
    top = root.resolve()
    seen: set[Path] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        real = folder.resolve()
        if real in seen or not real.is_relative_to(top):
            continue
        seen.add(real)
        scan.folders.append(folder)
        inner = []
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            path = Path(entry.path)
            if entry.name.startswith("._") or entry.name.upper() == "DICOMDIR":
                continue
            try:
                folder_entry = entry.is_dir()
                linked = entry.is_symlink()
            except OSError:
                folder_entry, linked = False, True
            if folder_entry:
                # Hidden folders hold what programs keep for themselves, such as the files behind DataLad's links.
                if entry.name.startswith("."):
                    continue
                # A link that leads out of the data set is listed as ignored when all files are accounted for.
                if not linked or path.resolve().is_relative_to(top):
                    inner.append(path)
            elif linked or entry.is_file():
                yield path
        waiting += reversed(inner)


def _scan_file(path: Path) -> Found | Broken | None:
    try:
        if path.is_symlink() and not path.exists():
            if path.suffix.lower() in _NEVER_DICOM:
                return None
            raise FileNotFoundError(errno.ENOENT, "a broken link: the file behind it is missing", str(path))
        if not path.is_file() or not is_dicom(path):
            return None
        return _read(path)
    except (DataError, OSError) as error:
        return Broken(path, error)


def _read(path: Path) -> Found | None:
    dataset = open_dataset(path, tags=_IDENTITY)
    with guarded(path):
        sop_class, uid = text(dataset, "SOPClassUID"), text(dataset, "SOPInstanceUID")
        if not sop_class:
            meta = getattr(dataset, "file_meta", None)
            sop_class = "" if meta is None else text(meta, "MediaStorageSOPClassUID")
            if sop_class == _DIRECTORY_CLASS:
                return None
            raise CorruptFileError("does not state its SOP class UID", path=path, remedy="download or export it again")
        common: dict[str, Any] = {
            "path": path,
            "patient": text(dataset, "PatientID"),
            "study": text(dataset, "StudyInstanceUID"),
            "series": text(dataset, "SeriesInstanceUID") or uid,
            "uid": uid,
            "frame_of_reference": text(dataset, "FrameOfReferenceUID"),
            "modality": text(dataset, "Modality"),
        }
        if sop_class == CT_CLASS or sop_class in ENHANCED:
            enhanced = sop_class in ENHANCED
            if enhanced:
                dataset = open_dataset(path, tags=_FRAME_TAGS)
            slices = slices_of(dataset, path, uid=uid, enhanced=enhanced)
            return Found(kind="ct", slices=tuple(slices), **common)
        if sop_class in SEG_CLASSES or sop_class == RTSTRUCT_CLASS:
            return _labels(path, sop_class, common)
    return Found(kind="other", **common)


def _labels(path: Path, sop_class: str, common: dict[str, Any]) -> Found:
    dataset = open_dataset(path, tags=_LABEL_TAGS)
    rtstruct = sop_class == RTSTRUCT_CLASS
    names = roi_names(dataset, path) if rtstruct else segment_names(dataset, path)
    series: set[str] = set()
    instances: set[str] = set()
    if rtstruct:
        frames = dataset.get("ReferencedFrameOfReferenceSequence") or ()
        for frame in frames:
            common["frame_of_reference"] = common["frame_of_reference"] or text(frame, "FrameOfReferenceUID")
            for study in frame.get("RTReferencedStudySequence") or ():
                for item in study.get("RTReferencedSeriesSequence") or ():
                    series.add(text(item, "SeriesInstanceUID"))
                    images = item.get("ContourImageSequence") or ()
                    instances.update(text(image, "ReferencedSOPInstanceUID") for image in images)
    else:
        for item in dataset.get("ReferencedSeriesSequence") or ():
            series.add(text(item, "SeriesInstanceUID"))
            images = item.get("ReferencedInstanceSequence") or ()
            instances.update(text(image, "ReferencedSOPInstanceUID") for image in images)
        if not instances:
            instances = _frame_sources(path)
    if not names:
        raise UnsupportedDataError("has no segment", path=path, remedy="export it again")
    return Found(
        kind="rtstruct" if rtstruct else "seg",
        referenced_series=frozenset(series),
        referenced=frozenset(instances),
        segments=tuple(names[number] for number in sorted(names)),
        **common,
    )


def _frame_sources(path: Path) -> set[str]:
    dataset = open_dataset(path, tags=_FRAME_TAGS)
    uids = set()
    for frame in (
        *(dataset.get("PerFrameFunctionalGroupsSequence") or ()),
        *(dataset.get("SharedFunctionalGroupsSequence") or ()),
    ):
        for derivation in frame.get("DerivationImageSequence") or ():
            for source in derivation.get("SourceImageSequence") or ():
                uids.add(text(source, "ReferencedSOPInstanceUID"))
    return uids
