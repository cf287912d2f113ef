"""Account for every file of a data set that looks like a volume: it belongs to a case, or it is listed as ignored."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from patchcore.datasets.layouts.files import FolderLog, is_archive, is_dicom_name, volume_ending
from patchcore.errors import DataError
from patchcore.study.layout import CaseFiles, IgnoredFile, Layout
from patchcore.volumes.nifti import nifti_files

__all__ = ["accounted", "volumes_below"]

_DEFAULT: Final = ""


def accounted(root: Path, layout: Layout, log: FolderLog, *, whole: bool) -> Layout:
    """Return a layout that lists every file that looks like a volume and belongs to no case, with the reason.

    Args:
        root: Folder of the data set.
        layout: The layout; `ignored` holds the files for which the layout knows a reason.
        log: Remembers every folder that is searched.
        whole: Whether to search all folders below `root`. If not, only the folders of the cases' files are searched.
    """
    used = {_key(file) for case in layout.cases for file in _files_of(case)}
    found: dict[str, IgnoredFile] = {}
    if whole:
        # Folders outside the data set are searched if the user gave them with --images or --labels.
        given = [folder for folder in (layout.images, layout.labels) if folder is not None]
        items = [item for folder in (root, *given) for item in volumes_below(folder, log)]
    else:
        items = [item for folder in sorted({Path(name).parent for name in used}) for item in _inside(folder, log)]
    for item in items:
        found.setdefault(_key(item.path), item)
    known = {_key(item.path): item for item in layout.ignored}
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


def volumes_below(root: Path, log: FolderLog) -> Iterator[IgnoredFile]:
    """Yield every file below a folder that looks like a volume; the reason is empty if the file could be a case's.

    Hidden folders are not searched. Links to files are followed; a link to a folder is followed if it was listed
    before, because the layout uses it.
    """
    waiting, seen, listed = [root], set(), set(log.looked_at)
    while waiting:
        folder = waiting.pop()
        real = folder.resolve()
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
                yield from _file(path)
                continue
            if volume_ending(name):
                yield IgnoredFile(path, "a folder that is named like a file")
            if kind == "linked folder" and path not in listed:
                if not path.resolve().is_relative_to(root.resolve()):
                    yield IgnoredFile(path, "a link to another folder, which is not searched")
            elif not name.startswith("."):
                waiting.append(path)


def _inside(folder: Path, log: FolderLog) -> Iterator[IgnoredFile]:
    try:
        names = log.list(folder).names
    except DataError:
        return
    for name in sorted(names):
        if not (folder / name).is_dir():
            yield from _file(folder / name)


def _file(path: Path) -> Iterator[IgnoredFile]:
    if is_archive(path.name):
        yield IgnoredFile(path, "an archive: unpack it to use what it contains")
    elif volume_ending(path.name.lstrip(".")):
        yield IgnoredFile(path, "a hidden file" if path.name.startswith(".") else _DEFAULT)


def _default(path: Path, layout: str) -> str:
    if layout not in ("dicom", "ircadb") and is_dicom_name(path.name):
        return "a DICOM file in a data set of NIfTI files; convert the series to NIfTI to use it"
    return f"not used by the layout {layout}"


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if not entry.is_dir():
            return "file"
        return "linked folder" if entry.is_symlink() else "folder"
    except OSError:
        # A loop of links is neither a folder nor a file that can be opened.
        return "file"


def _files_of(case: CaseFiles) -> Iterator[Path]:
    for volume in (case.image, case.label):
        if volume is not None:
            try:
                yield from volume.files()
            except (DataError, OSError):
                yield volume.path
    for path in case.others:
        yield from nifti_files(path)


def _key(path: Path) -> str:
    return os.path.normpath(path)
