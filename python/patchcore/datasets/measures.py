"""Measurements of one case, and the log that keeps them so that an unchanged case is not measured again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from patchcore.files import json_lines, write_atomic
from patchcore.lesions.table import Lesions, lesions_from_json, lesions_to_json, no_lesions
from patchcore.study.cases import CaseRecord, FileStamp
from patchcore.types import Triple
from patchcore.volumes.types import HuHistogram

__all__ = ["CaseHu", "CaseMeasures", "MeasureLog", "stamp_of"]

# Increased when measuring changes, so that cases measured by an older patchcore are measured again.
_VERSION = 5


@dataclass(frozen=True)
class CaseHu:
    """HU in and around the lesions of one label of a case."""

    label: int
    around: HuHistogram
    within: HuHistogram


@dataclass(frozen=True)
class CaseMeasures:
    """Measurements of one case.

    Attributes:
        record: The case.
        lesions: The lesions of every label.
        hu: HU in and around the lesions; None until the whole image was read.
        segments: The DICOM segments, see :class:`patchcore.datasets.dicom.measure.MeasuredSegments`; empty for NIfTI.
    """

    record: CaseRecord
    lesions: Lesions
    hu: CaseHu | None = None
    segments: tuple[dict[str, Any], ...] = ()

    def __len__(self) -> int:
        return len(self.lesions)

    def with_record(self, record: CaseRecord) -> CaseMeasures:
        """Return the same measures with a new record of the case."""
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
            "connectivity": self.lesions.connectivity,
            "min_volume_mm3": self.lesions.min_volume_mm3,
            "lesions": lesions_to_json(self.lesions),
            "speck_count": self.lesions.speck_count,
            "speck_voxel_count": self.lesions.speck_voxel_count,
            "hu": hu,
            "segments": list(self.segments),
        }
        return json.dumps(value, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str | bytes) -> CaseMeasures:
        """Read one line of the log.

        Raises:
            ValueError: The line is not valid, or was written by another version.
            KeyError: A field is missing.
            TypeError: A field has another type.
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
        record = CaseRecord.model_validate(value["record"])
        like = no_lesions(
            record.shape,
            record.affine_array,
            connectivity=int(value["connectivity"]),
            min_volume_mm3=float(value["min_volume_mm3"]),
        )
        like = replace(like, speck_count=int(value["speck_count"]), speck_voxel_count=int(value["speck_voxel_count"]))
        return cls(
            record=record,
            lesions=lesions_from_json(value["lesions"], like),
            hu=hu,
            segments=tuple(dict(segment) for segment in value["segments"]),
        )


def stamp_of(files: Iterable[Path], *, sha256: str = "") -> FileStamp:
    """Return size and modification time of the files of a volume, without reading them.

    Raises:
        OSError: A file is missing or cannot be reached.
    """
    stats = [file.stat() for file in files]
    # A slice may be replaced by an older one of equal size: neither the sum nor the newest time would change.
    each = " ".join(f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats)
    return FileStamp(
        size=sum(stat.st_size for stat in stats),
        mtime_ns=max(stat.st_mtime_ns for stat in stats),
        parts=hashlib.sha256(each.encode()).hexdigest()[:16] if len(stats) > 1 else "",
        sha256=sha256,
    )


class MeasureLog:
    """``measures.jsonl``: one line per measured case, appended when it is done; a kill loses only unfinished cases.

    A later line for a case replaces an earlier line. An incomplete last line is ignored.

    Args:
        path: The file.
        also: Further files to read, of shares that other processes have measured.
    """

    def __init__(self, path: Path, *, also: Sequence[Path] = ()) -> None:
        self.path = path
        self._entries: dict[str, CaseMeasures] = {}
        self._descriptor: int | None = None
        for file in (path, *also):
            try:
                lines = json_lines(file)
            except FileNotFoundError:
                continue
            for line in lines:
                with suppress(ValueError, KeyError, TypeError):
                    entry = CaseMeasures.from_json(line)
                    self._entries[entry.record.case_id] = entry

    def find(
        self,
        record: CaseRecord,
        *,
        connectivity: int,
        min_volume_mm3: float,
        given_spacing: Triple | None = None,
        label_rule: str = "",
        declared: Sequence[int] = (),
    ) -> CaseMeasures | None:
        """Return the measures of a case with these files and settings; None if anything changed."""
        entry = self._entries.get(record.case_id)
        if entry is None:
            return None
        if (entry.lesions.connectivity, entry.lesions.min_volume_mm3) != (connectivity, min_volume_mm3):
            return None
        known = entry.record
        if (known.image, known.label, known.given_spacing) != (record.image, record.label, given_spacing):
            return None
        if (known.label_rule, known.declared) != (label_rule, tuple(sorted(declared))):
            return None
        for old, new in ((known.image_stamp, record.image_stamp), (known.label_stamp, record.label_stamp)):
            if (old is None) != (new is None):
                return None
            if old is not None and new is not None and not old.same_files(new):
                return None
        update = {"patient": record.patient, "split": record.split, "columns": record.columns}
        return replace(entry, record=known.model_copy(update=update))

    def append(self, entry: CaseMeasures) -> None:
        """Append a case in one write."""
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
        """Rewrite the log with one line per case, if that changes the file."""
        self.close()
        text = "".join(f"{entry.to_json()}\n" for entry in sorted(keep, key=lambda item: item.record.case_id))
        try:
            unchanged = self.path.read_text(encoding="utf-8") == text
        except (FileNotFoundError, UnicodeDecodeError):
            unchanged = False
        if not unchanged:
            write_atomic(self.path, text)
