"""Check a data set without analyzing it: every file of every case to its last byte, and the cases among each other."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patchcore.datasets.checks import (
    COHORT,
    check_decisions,
    cohort_findings,
    commands,
    decide,
    finding,
    finding_of,
    header_findings,
    image_findings,
    label_findings,
    parse_accept,
    parse_spacing,
)
from patchcore.datasets.checks.content import image_sha256, lesions_sha256
from patchcore.datasets.layouts import CaseFiles, Layout, find_cases
from patchcore.datasets.measures import stamp_of
from patchcore.datasets.patients import group_patients
from patchcore.errors import DataError
from patchcore.lesions.measure import measure_lesions
from patchcore.study.cases import CaseRecord, FileStamp, Finding
from patchcore.types import PathLike
from patchcore.volumes.dicom.sources import is_index, write_sources
from patchcore.volumes.nifti import VolumeHeader, read_header, read_image, read_label, volume_files

__all__ = ["CheckProgress", "CheckReport", "check_dataset"]

_SCHEMA = 1


@dataclass(frozen=True)
class CheckProgress:
    """One case was checked; `record` has the findings in its own files."""

    done: int
    total: int
    record: CaseRecord


@dataclass(frozen=True)
class CheckReport:
    """What the checks found.

    Attributes:
        dataset: Folder of the data set.
        layout: As it was recognised.
        grouping: How patients were told apart.
        cases: With findings and the status that an analysis would give them.
        findings: Of the data set as a whole.
    """

    dataset: Path
    layout: Layout
    grouping: str
    cases: tuple[CaseRecord, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every case may be used: no error, and no geometry that awaits a decision."""
        return not any(record.status in ("quarantined", "held") for record in self.cases)

    @property
    def commands(self) -> list[str]:
        """What to type for geometry that awaits a decision."""
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
    threads: int | None = None,
    progress: Callable[[CheckProgress], None] | None = None,
) -> CheckReport:
    """Run all checks on a data set; it is only read, and no study is made.

    Args:
        dataset: Folder of the data set.
        images: Folder of the images within it; recognised where None.
        labels: Folder of the label maps, likewise.
        layout: One of :data:`patchcore.datasets.layouts.LAYOUTS`; recognised where None.
        patient_regex: See :func:`patchcore.datasets.patients.group_patients`.
        exclude: Cases to leave out.
        spacing: ``CASE=A,B,C``: see :func:`patchcore.datasets.checks.parse_spacing`.
        accept: ``CASE:CHECK``: see :func:`patchcore.datasets.checks.parse_accept`.
        threads: Cases worked on at once; all cores by default. Each holds one image.
        progress: Called in the calling thread as each case is done.

    Returns:
        What was found; faulty cases never stop the rest.

    Raises:
        DataError: No data set, no layout recognised, or a decision that names no case or check.
    """
    root = Path(dataset).resolve()
    if not root.exists():
        raise DataError("no such data set", path=root, remedy="check the path")
    if threads is not None and threads < 1:
        raise DataError(f"{threads} threads cannot work", found=threads, remedy="use 1 or more")
    spacings, accepted, excluded = parse_spacing(spacing), parse_accept(accept), set(exclude)
    found = _find(root, images=images, labels=labels, layout=layout)
    case_ids = [case.case_id for case in found.cases]
    if unknown := sorted(excluded.difference(case_ids)):
        remedy = f"a case is {case_ids[0]}" if case_ids else "the data set has no case"
        raise DataError(f"--exclude names no case: {', '.join(unknown)}", path=root, remedy=remedy)
    check_decisions(case_ids, spacing=spacings, accept=accepted)
    grouping = group_patients(case_ids, regex=patient_regex, given=[case.patient for case in found.cases])
    with tempfile.TemporaryDirectory(prefix="patchcore-check-") as folder:
        placed = write_sources(found, folder)
        records = [
            _record(case, patient, excluded=case.case_id in excluded)
            for case, patient in zip(placed.cases, grouping.patients, strict=True)
        ]
        checked = _check_all(records, placed.label_names, threads=threads, progress=progress)
    told = patient_regex is not None or any(case.patient is not None for case in found.cases)
    among = cohort_findings(checked, patients_known=told)
    cases = [
        decide(
            record.model_copy(update={"findings": (*record.findings, *among.get(record.case_id, ()))}),
            spacing=spacings,
            accept=accepted,
            command=_command(root),
        )
        for record in checked
    ]
    return CheckReport(root, found, grouping.description, tuple(cases), tuple(among.get(COHORT, ())))


def _command(dataset: Path) -> str:
    return f"patchcore analyze {shlex.quote(str(dataset))} STUDY"


def _find(root: Path, *, images: PathLike | None, labels: PathLike | None, layout: str | None) -> Layout:
    forced: dict[str, Any] = {} if layout is None else {"layout": layout}
    return find_cases(root, images=images, labels=labels, **forced)


def _record(files: CaseFiles, patient: str, *, excluded: bool) -> CaseRecord:
    record = CaseRecord(
        case_id=files.case_id,
        patient=files.patient or patient,
        image=files.image,
        label=files.label,
        status="excluded" if excluded else "accepted",
        split=files.split,
        columns=dict(files.columns),
    )
    if excluded or files.problem is None:
        return record
    return record.model_copy(update={"findings": (finding("files", files.problem, remedy=files.remedy),)})


def _check_all(
    records: list[CaseRecord],
    declared: Mapping[int, str],
    *,
    threads: int | None,
    progress: Callable[[CheckProgress], None] | None,
) -> list[CaseRecord]:
    """Check cases in threads; return them in their order."""
    checked = list(records)
    todo = [index for index, record in enumerate(records) if record.status != "excluded" and not record.findings]
    executor = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="check")
    try:
        futures = {executor.submit(_check_case, records[index], declared): index for index in todo}
        for done, future in enumerate(as_completed(futures), start=1):
            record = checked[futures[future]] = future.result()
            if progress is not None:
                progress(CheckProgress(done, len(todo), record))
    finally:
        # After Ctrl-C the cases at work are waited for, those not begun are dropped.
        executor.shutdown(wait=True, cancel_futures=True)
    return checked


def _check_case(record: CaseRecord, declared: Mapping[int, str]) -> CaseRecord:
    """Check the files of one case. Runs in a thread, touches nothing shared, and never raises for bad data."""
    findings: list[Finding] = []
    update: dict[str, Any] = {}
    image = _attempt(findings, lambda: None if record.image is None else read_header(record.image))
    label = _attempt(findings, lambda: read_header(record.label))
    if label is not None and (image is not None or record.image is None):
        findings += header_findings(image, label, case_id=record.case_id)
    if (grid := image or label) is not None:
        update |= _geometry(grid)
    if label is not None:
        update |= _attempt(findings, lambda: _check_label(record, declared, findings)) or {}
    if image is not None:
        update |= _attempt(findings, lambda: _check_image(record, findings)) or {}
    return record.model_copy(update=update | {"findings": tuple(findings)})


def _attempt(findings: list[Finding], work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        # Whatever a file makes a reader do, it is a finding of this case and leaves the others alone.
        findings.append(finding_of(error))
        return None


def _check_label(record: CaseRecord, declared: Mapping[int, str], findings: list[Finding]) -> dict[str, Any]:
    before = stamp_of(volume_files(record.label))
    if is_index(record.label):
        array = read_label(record.label).array
        labels = tuple(int(value) for value in np.unique(array) if value != 0)
        content = image_sha256(array)
    else:
        lesions = measure_lesions(record.label)
        labels = tuple(int(value) for value in np.unique(lesions.label))
        content = lesions_sha256(lesions)
    findings += label_findings(labels, declared, case_id=record.case_id)
    return {"labels": labels, "label_stamp": _unchanged(record.label, before, findings, content)}


def _check_image(record: CaseRecord, findings: list[Finding]) -> dict[str, Any]:
    assert record.image is not None
    before = stamp_of(volume_files(record.image))
    image = read_image(record.image)
    findings += image_findings(image.array, case_id=record.case_id, stored_dtype=image.stored_dtype)
    return {"image_stamp": _unchanged(record.image, before, findings, image_sha256(image.array))}


def _unchanged(path: Path, before: FileStamp, findings: list[Finding], content: str) -> FileStamp:
    if stamp_of(volume_files(path)) != before:
        findings.append(finding("changed", f"{path.parent.name}/{path.name} changed while it was read"))
    return before.model_copy(update={"content_sha256": content})


def _geometry(header: VolumeHeader) -> dict[str, Any]:
    return {
        "shape": header.shape,
        "spacing": header.spacing,
        "affine": tuple(tuple(float(value) for value in row) for row in header.affine),
        "orientation": header.orientation,
    }


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
