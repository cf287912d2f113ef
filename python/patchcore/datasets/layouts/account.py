"""Account for every file of a data set that looks like a volume: it belongs to a case, or it is listed as ignored."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from patchcore.datasets.layouts.files import (
    FolderLog,
    is_archive,
    is_dicom_name,
    is_folder,
    is_text,
    volume_ending,
)
from patchcore.errors import DataError
from patchcore.study.layout import CaseFiles, IgnoredFile, Layout
from patchcore.volumes.nifti import nifti_files
from patchcore.volumes.volume import DicomVolume

__all__ = ["accounted", "begins_like_dicom", "volumes_below"]


def accounted(root: Path, layout: Layout, log: FolderLog, *, whole: bool) -> Layout:
    """Return a layout that lists every file that looks like a volume and belongs to no case, with the reason.

    Files are compared by the real path of their folder, so that a file behind two links to folders counts once. Case
    ids that occur twice get a number.

    Args:
        root: Folder of the data set.
        layout: The layout; `ignored` holds the files for which the layout knows a reason.
        log: Remembers every folder that is searched.
        whole: Whether to search all folders below `root`. If not, only the folders of the cases' files are searched.
    """
    layout = replace(layout, cases=_unique(layout.cases))
    keys = _Keys()
    used = {keys.of(file) for case in layout.cases for file in _files_of(case)}
    folders = {name.rpartition(os.sep)[0] for name in used}
    if whole:
        # Folders outside the data set are searched if the user gave them with --images or --labels.
        top = os.path.realpath(root)
        outside = [
            folder
            for folder in (layout.images, layout.labels)
            if folder is not None and folder.is_dir() and not _is_searched(os.path.realpath(folder), top)
        ]
        items = [item for folder in (root, *outside) for item in volumes_below(folder, log, used=folders, files=used)]
    else:
        items = [item for folder in sorted(folders) for item in _inside(Path(folder), log)]
    found: dict[str, IgnoredFile] = {}
    for item in items:
        found.setdefault(keys.of(item.path), item)
    known = {keys.of(item.path): item for item in layout.ignored}
    ignored = {}
    for key, item in (known | found).items():
        if key not in used:
            reason = item.reason or (known[key].reason if key in known else _default(item.path, layout.name))
            ignored[key] = IgnoredFile(item.path, reason)
    return replace(
        layout,
        ignored=tuple(ignored[key] for key in sorted(ignored)),
        used_count=sum(os.path.lexists(name) for name in used),
    )


class _Keys:
    """Returns one text for each file: the real path of its folder, and its name."""

    def __init__(self) -> None:
        self._real: dict[str, str] = {}

    def of(self, path: Path) -> str:
        folder = str(path).rpartition(os.sep)[0]
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        return os.path.join(self._real[folder], path.name)  # noqa: PTH118 (100,000 times)


def volumes_below(
    root: Path, log: FolderLog, *, used: Collection[str] = (), files: Collection[str] = ()
) -> Iterator[IgnoredFile]:
    """Yield every file below a folder that looks like a volume; the reason is empty if the file could be a case's.

    Hidden folders are not searched. Links to files are followed. A link to a folder is followed if a case has files
    there; if not, it is listed, unless it leads to a folder that is searched anyway.

    Args:
        root: The folder.
        log: Remembers every folder that is searched.
        used: Real paths of the folders with files of cases.
        files: Files of cases, as the real path of the folder and the name; they are not yielded.
    """
    top = os.path.realpath(root)
    waiting, seen = [root], set()
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        log.note(folder)
        try:
            with os.scandir(folder) as entries:
                found = sorted((entry.name, _kind(entry)) for entry in entries)
        except OSError as error:
            yield IgnoredFile(folder, f"the folder cannot be listed ({error.strerror or error})")
            continue
        for name, kind in found:
            path = folder / name
            if kind == "file":
                if os.path.join(real, name) not in files:  # noqa: PTH118 (100,000 times)
                    yield from _file(path)
                continue
            if volume_ending(name):
                yield IgnoredFile(path, "a folder that is named like a file")
            if kind == "folder" and not name.startswith("."):
                waiting.append(path)
            elif kind == "linked folder":
                target = os.path.realpath(path)
                if target in used:
                    waiting.append(path)
                elif not _is_searched(target, top):
                    yield IgnoredFile(path, "a link to another folder, which is not searched")


def _is_searched(target: str, top: str) -> bool:
    """Return whether a folder lies below the top folder and is not hidden."""
    if target != top and not target.startswith(top + os.sep):
        return False
    return not any(part.startswith(".") for part in Path(target).relative_to(top).parts)


def _inside(folder: Path, log: FolderLog) -> Iterator[IgnoredFile]:
    try:
        listed = log.list(folder)
    except DataError:
        return
    for name in sorted(listed.names - {inner.name for inner in listed.folders}):
        yield from _file(folder / name)


def _file(path: Path) -> Iterator[IgnoredFile]:
    name = path.name
    if is_archive(name):
        yield IgnoredFile(path, "an archive: unpack it to use what it contains")
    elif volume_ending(name.lstrip(".")):
        reason = "" if is_text(name) else "a name that is not UTF-8: rename the file"
        yield IgnoredFile(path, "a hidden file" if name.startswith(".") else reason)
    elif "." not in name.lstrip(".") and begins_like_dicom(path):
        yield IgnoredFile(path, "")


def begins_like_dicom(path: Path) -> bool:
    """Return whether a file begins with the 128 bytes and the marker of DICOM."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _default(path: Path, layout: str) -> str:
    if layout not in ("dicom", "ircadb") and (is_dicom_name(path.name) or "." not in path.name):
        return "a DICOM file in a data set of NIfTI files; convert the series to NIfTI to use it"
    return f"not used by the layout {layout}"


def _kind(entry: os.DirEntry[str]) -> str:
    if not is_folder(entry):
        return "file"
    return "linked folder" if entry.is_symlink() else "folder"


def _files_of(case: CaseFiles) -> Iterator[Path]:
    """Yield the files of a case; the expected path of a missing label map is none of them, unless it looks like one."""
    for volume in (case.image, case.label):
        if volume is None:
            continue
        is_dicom = isinstance(volume, DicomVolume)
        try:
            files = volume.files()
        except (DataError, OSError):
            files = [] if is_dicom and volume.path.is_dir() else [volume.path]
        yield from (file for file in files if is_dicom or volume_ending(file.name))
    for path in case.others:
        yield from nifti_files(path)


def _unique(cases: tuple[CaseFiles, ...]) -> tuple[CaseFiles, ...]:
    """Return the cases with a number behind each id that an earlier case has."""
    counts = Counter(case.case_id for case in cases)
    if max(counts.values(), default=1) == 1:
        return cases
    taken = set(counts)
    named, seen = [], set()
    for case in cases:
        name, number = case.case_id, 2
        while name in seen or (name != case.case_id and name in taken):
            name, number = f"{case.case_id}-{number}", number + 1
        seen.add(name)
        named.append(replace(case, case_id=name))
    return tuple(sorted(named, key=lambda case: case.case_id))
