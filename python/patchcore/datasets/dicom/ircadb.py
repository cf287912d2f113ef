"""Find the cases of 3D-IRCADb: a folder per patient with ``PATIENT_DICOM`` and one mask series per structure."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from patchcore.datasets.dicom.drafts import Draft, broken_cases, cases_of, ct_volume, geometry
from patchcore.datasets.dicom.scan import Scan, scan_folder
from patchcore.errors import DataError
from patchcore.study.layout import IgnoredFile, Layout
from patchcore.volumes.dicom.options import SegmentOptions

__all__ = ["find_ircadb", "ircadb_patients"]

_IMAGES, _MASKS = "PATIENT_DICOM", "MASKS_DICOM"
_DEPTH = 3


def ircadb_patients(root: Path) -> list[Path]:
    """Return the folders that hold ``PATIENT_DICOM`` and ``MASKS_DICOM``, at most three levels below `root`."""
    found = []
    for place, inner, _names in os.walk(root):
        folder = Path(place)
        if {_IMAGES, _MASKS} <= set(inner):
            found.append(folder)
            inner.clear()
        elif len(folder.relative_to(root).parts) >= _DEPTH:
            inner.clear()
        inner.sort()
    return sorted(found)


def find_ircadb(
    root: Path, *, options: SegmentOptions, progress: Callable[[int, int | None], None] | None = None
) -> Layout | None:
    """Find the patients of 3D-IRCADb; None if there is none.

    Raises:
        DataError: pydicom is not installed.
        OSError: A folder cannot be read.
    """
    drafts, scans = [], []
    for folder in ircadb_patients(root):
        draft, found = _draft(folder, root, progress)
        drafts.append(draft)
        scans += found
    if not drafts:
        return None
    cases, numbers = cases_of(drafts, options)
    broken = [case for scan in scans for case in broken_cases(scan, root)]
    return Layout(
        name="ircadb",
        reason=f"{len(drafts)} folders with {_IMAGES}/ and {_MASKS}/",
        cases=tuple(sorted((*cases, *broken), key=lambda case: case.case_id)),
        label_names=MappingProxyType({number: name for name, number in numbers.items()}),
        looked_at=tuple(folder for scan in scans for folder in scan.folders),
        ignored=tuple(
            IgnoredFile(item.path, f"{item.modality or 'unknown modality'}: not a CT")
            for scan in scans
            for item in scan.found
            if item.kind != "ct"
        ),
    )


def _draft(folder: Path, root: Path, progress: Callable[[int, int | None], None] | None) -> tuple[Draft, list[Scan]]:
    name = folder.name if folder != root else root.name
    images = scan_folder(folder / _IMAGES, progress=progress)
    inner = sorted(item for item in (folder / _MASKS).iterdir() if item.is_dir())
    masks = {item.name: scan_folder(item, progress=progress) for item in inner}
    scans = [images, *masks.values()]
    files = tuple(item.path for scan in scans for item in scan.found)
    slices = [item for item in images.found if item.kind == "ct"]
    labels = [
        replace(item, segments=(mask,)) for mask, scan in masks.items() for item in scan.found if item.kind == "ct"
    ]
    try:
        if not slices:
            raise DataError(f"{_IMAGES}/ holds no CT slice", remedy="unpack or download the folder again")
        if not labels:
            raise DataError(f"{_MASKS}/ holds no mask", remedy="unpack or download the folder again")
        image, chosen, grid = ct_volume([part for item in slices for part in item.slices], name)
    except DataError as error:
        draft = Draft(name, name, None, None, (), {}, error.message, error.remedy, folder / _IMAGES, files)
        return draft, scans
    details = geometry(grid, chosen) | {"notes": [], "names": [item.segments[0] for item in labels]}
    return Draft(name, name, image, "masks", tuple(labels), details, path=folder / _IMAGES), scans
