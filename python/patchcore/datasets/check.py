"""Check a data set without analyzing it: read every file of every case completely, and compare the cases."""

from __future__ import annotations

import shlex
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchcore.datasets.checks import (
    COHORT,
    check_decisions,
    cohort_findings,
    commands,
    decide,
    parse_accept,
    parse_spacing,
)
from patchcore.datasets.examination import about_lesions, check_case, new_record
from patchcore.datasets.labels import Settings
from patchcore.datasets.layouts import find_cases
from patchcore.datasets.layouts.indices import with_indices
from patchcore.datasets.patients import group_patients
from patchcore.errors import DataError
from patchcore.study.cases import CaseRecord, Finding
from patchcore.study.layout import Layout
from patchcore.study.lesion_label import choose_lesion_label, ignored_label, lesion_labels
from patchcore.threads import checked_threads, for_each
from patchcore.types import PathLike
from patchcore.views.accounting import files_json
from patchcore.volumes.dicom.options import SegmentOptions

__all__ = ["CheckProgress", "CheckReport", "check_dataset"]

_SCHEMA = 1


@dataclass(frozen=True)
class CheckProgress:
    """Progress after a case was checked; `record` has the findings about the files of this case."""

    done: int
    total: int
    record: CaseRecord


@dataclass(frozen=True)
class CheckReport:
    """Result of the checks.

    Attributes:
        dataset: Folder of the data set.
        layout: The recognised layout.
        grouping: How the cases were grouped into patients.
        cases: All cases, with their findings and the status that an analysis would give them.
        findings: Findings about the data set as a whole.
    """

    dataset: Path
    layout: Layout
    grouping: str
    cases: tuple[CaseRecord, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every case can be used: no errors, and no geometry that waits for a decision."""
        return not any(record.status in ("quarantined", "held") for record in self.cases)

    @property
    def commands(self) -> list[str]:
        """Commands to type for geometry that waits for a decision."""
        return commands(self.cases, command=_command(self.dataset))

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        statuses = Counter(record.status for record in self.cases)
        levels = Counter(item.level for record in self.cases for item in record.findings if not item.decided)
        levels.update(item.level for item in self.findings)
        return {
            "schema_version": _SCHEMA,
            "dataset": str(self.dataset),
            "ok": self.ok,
            "layout": {"name": self.layout.name, "reason": self.layout.reason, "override": self.layout.override},
            "grouping": self.grouping,
            "files": files_json(self.layout),
            "case_count": len(self.cases),
            "status_counts": dict(sorted(statuses.items())),
            "finding_counts": {level: levels[level] for level in ("error", "geometry", "warning")},
            "findings": [item.model_dump(mode="json") for item in self.findings],
            "cases": [_case_json(record) for record in self.cases],
            "commands": self.commands,
        }


def check_dataset(
    dataset: PathLike,
    *,
    images: PathLike | None = None,
    labels: PathLike | None = None,
    layout: str | None = None,
    patient_regex: str | None = None,
    exclude: Iterable[str] = (),
    spacing: Iterable[str] = (),
    accept: Iterable[str] = (),
    segments: SegmentOptions | None = None,
    lesion_label: int | str | None = None,
    threads: int | None = None,
    progress: Callable[[CheckProgress], None] | None = None,
) -> CheckReport:
    """Run all checks on a data set; the data set is only read, and no study is created.

    Args:
        dataset: Folder of the data set.
        images: Folder of the images within the data set; None: recognised by its name.
        labels: Folder of the label maps within the data set; None: recognised by its name.
        layout: One of :data:`patchcore.datasets.layouts.LAYOUTS`; None: recognised automatically.
        patient_regex: See :func:`patchcore.datasets.patients.group_patients`.
        exclude: Cases to exclude.
        spacing: ``CASE=A,B,C``: see :func:`patchcore.datasets.checks.parse_spacing`.
        accept: ``CASE:CHECK``: see :func:`patchcore.datasets.checks.parse_accept`.
        segments: How DICOM segments are read; None: the defaults.
        lesion_label: Label of the lesions, by number or name, or several: a lesion must not leave its CT.
        threads: Number of cases processed at the same time; all cores by default.
        progress: Called in the calling thread when a case is done.

    Returns:
        The report. Faulty cases never stop the others.

    Raises:
        DataError: The data set does not exist, no layout is recognised, or a decision matches no case or check.
    """
    root = Path(dataset).resolve()
    if not root.exists():
        raise DataError("no such data set", path=root, remedy="check the path")
    checked_threads(threads)
    spacings, accepted, excluded = parse_spacing(spacing), frozenset(parse_accept(accept)), set(exclude)
    found = find_cases(root, images=images, labels=labels, layout=layout, segments=segments)
    case_ids = [case.case_id for case in found.cases]
    check_decisions(case_ids, spacing=spacings, accept=accepted, exclude=excluded)
    grouping = group_patients(case_ids, regex=patient_regex, given=[case.patient for case in found.cases])
    settings = Settings(
        declared=found.label_names,
        spacing=spacings,
        accept=accepted,
        command=_command(root),
        ignore_label=ignored_label(found.label_names),
    )
    with tempfile.TemporaryDirectory(prefix="patchcore-check-") as folder:
        placed = with_indices(found, Path(folder))
        records = [
            new_record(case, patient, settings, excluded=case.case_id in excluded, stamped=False)
            for case, patient in zip(placed.cases, grouping.patients, strict=True)
        ]
        checked = _check_all(records, settings, threads=threads, progress=progress)
    chosen = lesion_labels(lesion_label, found.label_names) or _lesion_label(checked, found.label_names)
    for label in chosen:
        checked = [about_lesions(record, label, settings) for record in checked]
    among = cohort_findings(checked, patients_known=grouping.known)
    cases = [
        decide(
            record.model_copy(update={"findings": (*record.findings, *among.get(record.case_id, ()))}),
            spacing=spacings,
            accept=accepted,
            command=_command(root),
        )
        for record in checked
    ]
    return CheckReport(root, found, grouping.description, tuple(cases), (*found.findings, *among.get(COHORT, ())))


def _lesion_label(records: Sequence[CaseRecord], names: Mapping[int, str]) -> tuple[int, ...]:
    """Return the label that an analysis would choose; if it would ask, every label may be the lesion."""
    counts = Counter(label for record in records for label in record.labels)
    try:
        return (choose_lesion_label(counts, names)[0],)
    except DataError:
        return tuple(counts)


def _command(dataset: Path) -> str:
    return f"patchcore analyze {shlex.quote(str(dataset))} STUDY"


def _check_all(
    records: list[CaseRecord],
    settings: Settings,
    *,
    threads: int | None,
    progress: Callable[[CheckProgress], None] | None,
) -> list[CaseRecord]:
    """Check cases in threads; return them in the order given."""
    todo = [index for index, record in enumerate(records) if record.status != "excluded" and not record.findings]
    count = 0

    def done(_: int, record: CaseRecord) -> None:
        nonlocal count
        count += 1
        if progress is not None:
            progress(CheckProgress(count, len(todo), record))

    checked = for_each(
        lambda index: check_case(records[index], settings), todo, threads=threads, name="check", done=done
    )
    found = dict(zip(todo, checked, strict=True))
    return [found.get(index, record) for index, record in enumerate(records)]


def _case_json(record: CaseRecord) -> dict[str, Any]:
    return {
        "case_id": record.case_id,
        "patient": record.patient,
        "status": record.status,
        "reason": record.reason,
        "remedy": record.remedy,
        "shape": list(record.shape),
        "spacing": list(record.spacing),
        "given_spacing": None if record.given_spacing is None else list(record.given_spacing),
        "labels": list(record.labels),
        "findings": [item.model_dump(mode="json") for item in record.findings],
    }
