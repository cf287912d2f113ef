"""Reads what the dashboard shows about a study: plan, lesion volumes and cases. Read errors become text."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from patchcore.config.plan import Plan, read_plan
from patchcore.files import json_lines
from patchcore.types import Float64Array

__all__ = ["CaseLine", "StudyFacts", "StudyReader"]


@dataclass(frozen=True)
class CaseLine:
    """One case of the study. All fields are text from a file and are not trusted."""

    case_id: str
    patient: str
    status: str
    reason: str
    remedy: str


@dataclass(frozen=True)
class StudyFacts:
    """The contents of the study's files.

    Attributes:
        plan: The plan; None if there is none or it could not be read.
        plan_error: Why ``plan.json`` could not be read, or None.
        volumes_mm3: Label → lesion volumes, float64 of shape (N,), mm³.
        lesions_error: Why ``lesions.csv`` could not be read, or None.
        cases: The cases in the order of the file.
        cases_error: Why ``cases.jsonl`` could not be read, or None.
    """

    plan: Plan | None = None
    plan_error: str | None = None
    volumes_mm3: dict[int, Float64Array] = field(default_factory=dict)
    lesions_error: str | None = None
    cases: tuple[CaseLine, ...] = ()
    cases_error: str | None = None


class StudyReader:
    """Reads the files of a study, and reads each file again when it changes.

    Args:
        study: The study folder.
    """

    def __init__(self, study: Path) -> None:
        self._study = study
        self._stamps: dict[str, tuple[int, int, int] | None] = {}
        self._facts = StudyFacts()

    def poll(self) -> StudyFacts:
        """Return the current contents. Returns the same object as long as no file has changed."""
        changes: dict[str, Any] = {}
        if self._changed("plan.json"):
            changes["plan"], changes["plan_error"] = self._read("plan.json", read_plan, None)
        if self._changed("lesions.csv"):
            changes["volumes_mm3"], changes["lesions_error"] = self._read("lesions.csv", _read_volumes, {})
        if self._changed("cases.jsonl"):
            changes["cases"], changes["cases_error"] = self._read("cases.jsonl", _read_cases, ())
        if changes:
            self._facts = StudyFacts(**{**self._facts.__dict__, **changes})
        return self._facts

    def _changed(self, name: str) -> bool:
        try:
            info = (self._study / name).stat()
            stamp = (info.st_ino, info.st_size, info.st_mtime_ns)
        except OSError:
            stamp = None
        changed = name not in self._stamps or self._stamps[name] != stamp
        self._stamps[name] = stamp
        return changed

    def _read(self, name: str, read: Callable[[Path], Any], nothing: Any) -> tuple[Any, str | None]:
        try:
            return read(self._study / name), None
        except FileNotFoundError:
            return nothing, None
        except Exception as error:  # every read error is shown in the pane of the file
            return nothing, f"{name}: {error}"


def _read_volumes(path: Path) -> dict[int, Float64Array]:
    volumes: dict[int, list[float]] = {}
    with path.open(newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            volumes.setdefault(int(row["label"]), []).append(float(row["volume_mm3"]))
    return {label: np.array(values) for label, values in sorted(volumes.items())}


def _read_cases(path: Path) -> tuple[CaseLine, ...]:
    lines = []
    for line in json_lines(path):
        record = json.loads(line)
        keys = ("case_id", "patient", "status", "reason", "remedy")
        lines.append(CaseLine(*(str(record.get(key) or "") for key in keys)))
    return tuple(lines)
