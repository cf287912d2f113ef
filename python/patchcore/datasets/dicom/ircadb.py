"""Find the cases of 3D-IRCADb: a folder per patient with ``PATIENT_DICOM`` and one mask series per structure."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from patchcore.datasets.dicom.drafts import Draft, broken_cases, cases_of, ct_volume, geometry
from patchcore.datasets.dicom.scan import Found, scan_folder
from patchcore.errors import DataError
from patchcore.study.layout import IgnoredFile, Layout
from patchcore.volumes.dicom.options import SegmentOptions

__all__ = ["find_ircadb"]

_IMAGES, _MASKS = "PATIENT_DICOM", "MASKS_DICOM"


def _holds_ircadb(root: Path) -> bool:
    """Return whether a folder named ``PATIENT_DICOM`` lies beside one named ``MASKS_DICOM``, at any depth."""
    return any({_IMAGES, _MASKS} <= set(inner) for _place, inner, _names in os.walk(root, followlinks=False))


def find_ircadb(
    root: Path, *, options: SegmentOptions, progress: Callable[[int, int | None], None] | None = None
) -> Layout | None:
    """Find the patients of 3D-IRCADb; None if there is none. Every DICOM file is a case's, or listed as ignored.

    Raises:
        DataError: pydicom is not installed.
        OSError: A folder cannot be read.
    """
    if not _holds_ircadb(root):
        return None
    scan = scan_folder(root, progress=progress)
    images: dict[Path, list[Found]] = defaultdict(list)
    masks: dict[Path, list[Found]] = defaultdict(list)
    ignored: list[IgnoredFile] = []
    for item in scan.found:
        parts = item.path.relative_to(root).parts
        at = next((at for at, part in enumerate(parts) if part in (_IMAGES, _MASKS)), None)
        if at is None or item.kind != "ct":
            what = f"{item.modality or 'unknown modality'}: not a CT" if at is not None else "not in its two folders"
            ignored.append(IgnoredFile(item.path, f"{what} ({_IMAGES}, {_MASKS})" if at is None else what))
            continue
        patient = root.joinpath(*parts[:at])
        if parts[at] == _IMAGES:
            images[patient].append(item)
        else:
            name = parts[at + 1] if len(parts) > at + 2 else _MASKS
            masks[patient].append(replace(item, segments=(name,)))
    patients = sorted({*images, *masks})
    drafts = [_draft(folder, root, images[folder], masks[folder]) for folder in patients]
    cases, numbers = cases_of(drafts, options)
    return Layout(
        name="ircadb",
        reason=f"{len(drafts)} folder{'' if len(drafts) == 1 else 's'} with {_IMAGES}/ or {_MASKS}/",
        cases=tuple(sorted((*cases, *broken_cases(scan, root)), key=lambda case: case.case_id)),
        label_names=MappingProxyType({number: name for name, number in numbers.items()}),
        looked_at=tuple(scan.folders),
        ignored=tuple(ignored),
    )


def _draft(folder: Path, root: Path, slices: Sequence[Found], masks: Sequence[Found]) -> Draft:
    name = folder.name if folder != root else root.name
    key = folder.relative_to(root).as_posix()
    files = tuple(item.path for item in (*slices, *masks))
    try:
        if not slices:
            raise DataError(f"{_IMAGES}/ holds no CT slice", remedy="unpack or download the folder again")
        if not masks:
            raise DataError(f"{_MASKS}/ holds no mask", remedy="unpack or download the folder again")
        image, chosen, grid = ct_volume([part for item in slices for part in item.slices], name)
        counts = Counter(item.segments[0] for item in masks)
        short = next((mask for mask, count in sorted(counts.items()) if count != len(chosen)), None)
        if short is not None:
            message = f"mask {short} has {counts[short]} slices, the CT has {len(chosen)}"
            raise DataError(message, remedy="unpack or download the folder again")
    except DataError as error:
        return Draft(name, key, None, None, (), {}, error.message, error.remedy, folder / _IMAGES, files)
    details = geometry(grid, chosen) | {"notes": [], "names": [item.segments[0] for item in masks]}
    return Draft(name, key, image, "masks", tuple(masks), details, path=folder / _IMAGES)
