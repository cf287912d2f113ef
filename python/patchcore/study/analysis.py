"""Results of an analysis: the cases of a data set, how they were found, and what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from patchcore.study.cases import CaseRecord, Finding
from patchcore.study.fingerprint import Fingerprint
from patchcore.study.layout import Layout
from patchcore.study.study import Study

__all__ = ["Analysis", "AnalyzeProgress", "Grouping"]


@dataclass(frozen=True)
class Grouping:
    """The patient of each case, in the order of the cases, and how it was told."""

    patients: tuple[str, ...]
    description: str
    known: bool = False


@dataclass(frozen=True)
class AnalyzeProgress:
    """One case is done with one phase: ``"labels"`` (measuring) or ``"images"`` (reading, HU)."""

    phase: str
    done: int
    total: int
    record: CaseRecord


@dataclass(frozen=True)
class Analysis:
    """What an analysis found; `fingerprint` is None without accepted cases, `findings` are of the whole data set."""

    study: Study
    layout: Layout
    grouping: Grouping
    records: tuple[CaseRecord, ...]
    fingerprint: Fingerprint | None
    figures: tuple[Path, ...]
    reused_count: int
    findings: tuple[Finding, ...] = ()

    @property
    def quarantined(self) -> tuple[CaseRecord, ...]:
        """Cases that were found faulty."""
        return tuple(record for record in self.records if record.status == "quarantined")

    @property
    def held(self) -> tuple[CaseRecord, ...]:
        """Cases whose geometry awaits a decision."""
        return tuple(record for record in self.records if record.status == "held")
