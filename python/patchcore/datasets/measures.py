"""What is measured of one case, and how it is kept so that an unchanged case is not measured again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from patchcore.datasets.hu import HuHistogram
from patchcore.files import write_atomic
from patchcore.study.cases import CaseRecord, FileStamp
from patchcore.types import Float64Array, Triple

__all__ = ["COLUMNS", "CaseHu", "CaseMeasures", "MeasureLog", "stamp_of"]

# Raised when measuring changes, so that what an older patchcore measured is measured again.
_VERSION = 2

COLUMNS = (
    "label", "voxel_count", "volume_mm3", "equivalent_diameter_mm", "longest_axial_diameter_mm", "extent_mm",
    "centroid_voxel", "centroid_mm", "touches_border", "bbox_start", "bbox_stop",
)  # fmt: skip
"""Columns kept of :class:`patchcore.lesions.measure.Lesions`, as nested lists; axes in stored array order."""


@dataclass(frozen=True)
class CaseHu:
    """HU in and around the lesions of one label of a case."""

    label: int
    around: HuHistogram
    within: HuHistogram


@dataclass(frozen=True)
class CaseMeasures:
    """A case and its lesions of every label; `hu` once its image was read to the end, `segments` of DICOM only."""

    record: CaseRecord
    connectivity: int
    min_volume_mm3: float
    lesions: dict[str, list[Any]]
    speck_count: int = 0
    hu: CaseHu | None = None
    segments: list[dict[str, Any]] = field(default_factory=list)

    def column(self, name: str) -> Float64Array:
        """Return one column as float64, shape (N,) or (N, 3)."""
        return np.asarray(self.lesions[name], dtype=np.float64)

    def __len__(self) -> int:
        return len(self.lesions["label"])

    def with_record(self, record: CaseRecord) -> CaseMeasures:
        """Return the same measures of the case as it now stands."""
        return replace(self, record=record)

    def to_json(self) -> str:
        """Return one line of the log."""
        hu = self.hu and {
            "label": self.hu.label,
            "around": [self.hu.around.start, self.hu.around.counts.tolist()],
            "within": [self.hu.within.start, self.hu.within.counts.tolist()],
        }
        value = {
            "v": _VERSION,
            "record": self.record.model_dump(mode="json"),
            "connectivity": self.connectivity,
            "min_volume_mm3": self.min_volume_mm3,
            "lesions": self.lesions,
            "speck_count": self.speck_count,
            "hu": hu,
            "segments": self.segments,
        }
        return json.dumps(value, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> CaseMeasures:
        """Read one line of the log.

        Raises:
            ValueError: It is no such line, or of another version.
            KeyError: A field is missing.
            TypeError: A field is of another kind.
        """
        value = json.loads(line)
        if value["v"] != _VERSION:
            raise ValueError("measured by another version")
        hu = None
        if value["hu"] is not None:
            around, within = (
                HuHistogram(int(start), np.asarray(counts, dtype=np.int64))
                for start, counts in (value["hu"]["around"], value["hu"]["within"])
            )
            hu = CaseHu(int(value["hu"]["label"]), around, within)
        lesions = value["lesions"]
        return cls(
            record=CaseRecord.model_validate(value["record"]),
            connectivity=int(value["connectivity"]),
            min_volume_mm3=float(value["min_volume_mm3"]),
            lesions={name: list(lesions[name]) for name in COLUMNS},
            speck_count=int(value["speck_count"]),
            hu=hu,
            segments=[dict(segment) for segment in value["segments"]],
        )


def stamp_of(files: Iterable[Path], *, sha256: str = "") -> FileStamp:
    """Return size and time of the files of a volume, without reading them.

    Raises:
        OSError: One of them is missing or out of reach.
    """
    stats = [file.stat() for file in files]
    return FileStamp(
        size=sum(stat.st_size for stat in stats),
        mtime_ns=max(stat.st_mtime_ns for stat in stats),
        sha256=sha256,
    )


class MeasureLog:
    """``measures.jsonl``: one line a measured case, appended as it finishes: a kill loses only what runs.

    A later line for a case replaces an earlier one; a torn last line is ignored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, CaseMeasures] = {}
        self._descriptor: int | None = None
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        for line in text.splitlines():
            with suppress(ValueError, KeyError, TypeError):
                entry = CaseMeasures.from_json(line)
                self._entries[entry.record.case_id] = entry

    def find(
        self, record: CaseRecord, *, connectivity: int, min_volume_mm3: float, given_spacing: Triple | None = None
    ) -> CaseMeasures | None:
        """Return what was measured of a case with these files and settings, None where anything changed."""
        entry = self._entries.get(record.case_id)
        if entry is None or (entry.connectivity, entry.min_volume_mm3) != (connectivity, min_volume_mm3):
            return None
        known = entry.record
        if (known.image, known.label, known.given_spacing) != (record.image, record.label, given_spacing):
            return None
        for old, new in ((known.image_stamp, record.image_stamp), (known.label_stamp, record.label_stamp)):
            if (old is None) != (new is None):
                return None
            if old is not None and new is not None and (old.size, old.mtime_ns) != (new.size, new.mtime_ns):
                return None
        update = {"patient": record.patient, "split": record.split, "columns": record.columns}
        return replace(entry, record=known.model_copy(update=update))

    def append(self, entry: CaseMeasures) -> None:
        """Add a case, in one write."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            size = os.fstat(self._descriptor).st_size
            if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                os.write(self._descriptor, b"\n")
        self._entries[entry.record.case_id] = entry
        data = memoryview(f"{entry.to_json()}\n".encode())
        while data:
            data = data[os.write(self._descriptor, data) :]

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def compact(self, keep: Iterable[CaseMeasures]) -> None:
        """Write the log anew with one line a case, where that differs from what is there."""
        self.close()
        text = "".join(f"{entry.to_json()}\n" for entry in sorted(keep, key=lambda item: item.record.case_id))
        try:
            unchanged = self.path.read_text(encoding="utf-8") == text
        except (FileNotFoundError, UnicodeDecodeError):
            unchanged = False
        if not unchanged:
            write_atomic(self.path, text)
