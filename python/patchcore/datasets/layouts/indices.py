"""Write index files for the DICOM volumes of a layout, so that every volume has a path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from patchcore.study.layout import Layout
from patchcore.volumes.dicom.sources import INDEX_SUFFIX
from patchcore.volumes.volume import DicomVolume, Volume

__all__ = ["with_indices"]


def with_indices(layout: Layout, folder: Path, *, lesions: Sequence[int] = ()) -> Layout:
    """Write an index for each DICOM volume of a layout; an index with the same content is not rewritten.

    Args:
        layout: Any layout; NIfTI files are not changed.
        folder: Folder for the indices; created if it is missing.
        lesions: Labels that the user chose as lesions: in a label map they cover all other labels.

    Returns:
        The layout, with each DICOM volume replaced by its index.

    Raises:
        OSError: The folder cannot be written to.
    """

    def placed(volume: Volume, name: str) -> Volume:
        if not isinstance(volume, DicomVolume):
            return volume
        if lesions and volume.found is not None and volume.found.kind != "ct":
            details = MappingProxyType({**volume.found.details, "lesions": sorted(lesions)})
            volume = replace(volume, found=replace(volume.found, details=details))
        return volume.indexed(folder / f"{name}{INDEX_SUFFIX}")

    cases = [
        replace(
            case,
            image=None if case.image is None else placed(case.image, f"{case.case_id}.image"),
            label=placed(case.label, f"{case.case_id}.label"),
        )
        for case in layout.cases
    ]
    return replace(layout, cases=tuple(cases))
