"""Result types of an analysis: layout, grouping into patients, cases and measurements."""

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
    """The patient of each case, in the order of the cases, and a description of the grouping."""

    patients: tuple[str, ...]
    description: str
    known: bool = False


@dataclass(frozen=True)
class AnalyzeProgress:
    """Reports that one case finished a phase: ``"labels"`` (measuring) or ``"images"`` (reading, HU)."""

    phase: str
    done: int
    total: int
    record: CaseRecord


@dataclass(frozen=True)
class Analysis:
    """Result of an analysis.

    `command` is the command that takes further decisions. `fingerprint` is None without accepted cases. `findings`
    concern the whole data set.
    """

    study: Study
    command: str
    layout: Layout
    grouping: Grouping
    records: tuple[CaseRecord, ...]
    fingerprint: Fingerprint | None
    figures: tuple[Path, ...]
    reused_count: int
    findings: tuple[Finding, ...] = ()

    @property
    def quarantined(self) -> tuple[CaseRecord, ...]:
        """Faulty cases."""
        return tuple(record for record in self.records if record.status == "quarantined")

    @property
    def held(self) -> tuple[CaseRecord, ...]:
        """Cases with geometry that the user must correct or accept."""
        return tuple(record for record in self.records if record.status == "held")
