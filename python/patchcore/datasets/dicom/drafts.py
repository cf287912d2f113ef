"""Cases of a DICOM archive before they have an id: files that belong together, and why they cannot be used."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from patchcore.datasets.dicom.scan import Found, Scan
from patchcore.errors import DataError
from patchcore.study.layout import CaseFiles
from patchcore.volumes.dicom.grid import Grid
from patchcore.volumes.dicom.names import label_numbers, segment_labels
from patchcore.volumes.dicom.options import SegmentOptions
from patchcore.volumes.dicom.slices import Slice, choose_slices
from patchcore.volumes.dicom.sources import DicomSource
from patchcore.volumes.volume import DicomVolume

__all__ = ["Draft", "broken_cases", "cases_of", "ct_volume", "geometry"]


@dataclass(frozen=True)
class Draft:
    """A case without case id and label numbers; `others` are its files if it has a problem."""

    patient: str
    key: str
    image: DicomSource | None
    label_kind: Literal["seg", "rtstruct", "masks"] | None
    labels: tuple[Found, ...]
    label_details: dict[str, Any]
    problem: str | None = None
    remedy: str | None = None
    path: Path = Path()
    others: tuple[Path, ...] = ()

    @property
    def names(self) -> list[str]:
        """Names of all segments."""
        return [name for found in self.labels for name in found.segments]


def ct_volume(slices: Sequence[Slice], series: str) -> tuple[DicomSource, list[Slice], Grid]:
    """Return the volume of CT slices that no segmentation refers to.

    Raises:
        DataError: A slice is missing, duplicated or shifted.
    """
    chosen, grid = choose_slices([item for item in slices if not item.localizer], frozenset())
    return ct_source(grid, chosen, series, grid.notes), chosen, grid


def ct_source(grid: Grid, slices: Sequence[Slice], series: str, notes: Sequence[str]) -> DicomSource:
    """Return the index of a CT: its files, its grid and what was done with its slices."""
    details = geometry(grid, slices) | {"series": series, "notes": list(notes)}
    return DicomSource("ct", tuple(dict.fromkeys(item.path for item in slices)), MappingProxyType(details))


def geometry(grid: Grid, slices: Sequence[Slice]) -> dict[str, Any]:
    """Return the details of an index that describe a grid."""
    return {
        "shape": list(grid.shape),
        "affine": grid.affine.tolist(),
        "slices": [[item.uid, item.frame] for item in slices],
    }


def cases_of(drafts: Sequence[Draft], options: SegmentOptions) -> tuple[list[CaseFiles], dict[str, int]]:
    """Return the cases of drafts, and the number of each label: a label name has one number in all cases."""
    labels = [segment_labels(draft.names, each_reader=options.readers == "each") for draft in drafts]
    numbers = label_numbers(name for of_case in labels for name in of_case.values())
    stems = [_safe(draft.patient) for draft in drafts]
    count = Counter(stem.casefold() for stem in stems)
    cases = []
    for draft, stem, of_case in zip(drafts, stems, labels, strict=True):
        name = stem
        if count[stem.casefold()] > 1:
            # The suffix depends on the series, not on its rank: it stays the same if other series are added or removed.
            name = f"{stem}_{hashlib.sha256(f'{draft.patient}/{draft.key}'.encode()).hexdigest()[:8]}"
        source = None
        if draft.label_kind is not None and draft.label_details:
            details = draft.label_details | {"labels": numbers, "segments": of_case, "options": options.to_json()}
            source = DicomSource(draft.label_kind, tuple(item.path for item in draft.labels), MappingProxyType(details))
        cases.append(
            CaseFiles(
                case_id=name,
                image=None if draft.image is None else DicomVolume.of(draft.image),
                label=DicomVolume(draft.labels[0].path if draft.labels else draft.path, source),
                problem=draft.problem,
                remedy=draft.remedy,
                patient=draft.patient or name,
                others=draft.others,
            )
        )
    return cases, numbers


def _safe(patient: str) -> str:
    name = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", patient)).strip("-.")[:64]
    return name or "patient"


def broken_cases(scan: Scan, root: Path) -> list[CaseFiles]:
    """Return one case per folder with files that begin like DICOM but cannot be read."""
    folders: dict[Path, list[Any]] = defaultdict(list)
    for item in scan.broken:
        folders[item.path.parent].append(item)
    cases = []
    for folder in sorted(folders):
        items = folders[folder]
        first = items[0]
        what = first.error.message if isinstance(first.error, DataError) else str(first.error)
        rest = len(items) - 1
        more = f" (and {rest} more file{'' if rest == 1 else 's'} in this folder)" if rest else ""
        inner = str(folder.relative_to(root))
        digest = hashlib.sha256(inner.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        cases.append(
            CaseFiles(
                case_id=f"unreadable_{digest}",
                image=None,
                label=DicomVolume(first.path),
                problem=f"{first.path.name}{more}: {what}",
                remedy="download or export these files again, or remove them from the folder",
                others=tuple(item.path for item in items[1:]),
            )
        )
    return cases
