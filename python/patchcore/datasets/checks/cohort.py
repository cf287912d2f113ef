"""Checks that compare all cases: duplicate scans, patients that are not known, a header unlike the others."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

import numpy as np

from patchcore.datasets.patients import separating_pattern
from patchcore.study.cases import CaseRecord, FileStamp, Finding
from patchcore.study.checks import finding

__all__ = ["COHORT", "cohort_findings"]

COHORT = ""
"""Key of the findings about the data set as a whole."""

_OTHER_SPACING = 1.25
"""Spacings that differ by this factor along an axis count as different."""

_DUPLICATES = frozenset({"duplicate-image", "duplicate-label"})


def cohort_findings(records: Sequence[CaseRecord], *, patients_known: bool = False) -> dict[str, list[Finding]]:
    """Check the cases against each other.

    A duplicate is reported for the later of two cases, in the order given. Cases that are excluded, or faulty for
    another reason, do not count as originals. Content is compared by hashes: the hash of the voxels if the stamp has
    one, else the hash of the files.

    Args:
        records: All cases, with their stamps.
        patients_known: Whether the data set or the user gives the patient of each case.

    Returns:
        Findings by case_id; findings about the data set as a whole are under :data:`COHORT`, the empty key.
    """
    found: dict[str, list[Finding]] = {}
    images: dict[tuple[str, str], CaseRecord] = {}
    labels: dict[tuple[str, str], list[CaseRecord]] = {}
    for record in records:
        if record.status == "excluded":
            continue
        result = _duplicate_image(record, images)
        if result is None:
            result = _same_label(record, labels)
        if result is not None:
            found.setdefault(record.case_id, []).append(result)
        if (result is not None and result.level == "error") or _faulty(record):
            continue
        for key in _hashes(record.image_stamp):
            images.setdefault(key, record)
        if record.labels:
            for key in _hashes(record.label_stamp):
                labels.setdefault(key, []).append(record)
    for record, result in _lost_headers(records):
        found.setdefault(record.case_id, []).append(result)
    if (about := _patients(records, patients_known=patients_known)) is not None:
        found[COHORT] = [about]
    return found


def _patients(records: Sequence[CaseRecord], *, patients_known: bool) -> Finding | None:
    """Question a grouping that leaves one patient, that puts most cases into one, or that nothing confirms."""
    cases = [record for record in records if record.status != "excluded"]
    patients = Counter(record.patient for record in cases)
    if len(cases) < 2:
        return None
    largest, count = patients.most_common(1)[0]
    if len(patients) == 1 or (count > len(cases) / 2 and count > 2):
        which = f"all {count}" if len(patients) == 1 else f"{count} of {len(cases)}"
        message = f"{which} cases count as scans of one patient ({largest})"
        better = separating_pattern([record.case_id for record in cases])
        remedy = None
        if better is not None:
            remedy = f"try --patient-regex {shlex.quote(better[0])}, which finds {better[1]} patients"
        return finding("one-patient", message, remedy=remedy)
    if len(patients) == len(cases) and not patients_known:
        message = f"each of the {len(cases)} cases counts as a separate patient, but the data set does not confirm it"
        return finding("patients-unknown", message)
    return None


def _lost_headers(records: Sequence[CaseRecord]) -> Iterator[tuple[CaseRecord, Finding]]:
    """Find identity affines in a cohort in which most other cases have another spacing.

    On a matrix as large as a CT slice, an identity affine is found in the case alone. A small crop may really have
    voxels of 1 mm, so it is only doubted if most other cases have another spacing.
    """
    usable = [record for record in records if record.status in ("accepted", "test") and min(record.spacing) > 0]
    others = [record for record in usable if not _is_unit(record)]
    if len(others) < 2 or 2 * len(others) <= len(usable):
        return
    spacing = [median(record.canonical_spacing[axis] for record in others) for axis in range(3)]
    if max(max(mm, 1 / mm) for mm in spacing) < _OTHER_SPACING:
        return
    others_mm = " × ".join(f"{mm:.4g}" for mm in spacing)
    for record in usable:
        if _is_unit(record) and record.given_spacing is None and not _found(record, "identity-affine"):
            message = f"identity affine and spacing 1 × 1 × 1 mm; the median of the other cases is {others_mm} mm"
            yield record, finding("identity-affine", message)


def _is_unit(record: CaseRecord) -> bool:
    return bool(np.allclose(np.abs(record.affine_array), np.eye(4), rtol=0, atol=1e-6))


def _found(record: CaseRecord, check: str) -> bool:
    return any(item.check == check for item in record.findings)


def _duplicate_image(record: CaseRecord, images: dict[tuple[str, str], CaseRecord]) -> Finding | None:
    for key in _hashes(record.image_stamp):
        first = images.get(key)
        if first is not None:
            same = "the same scan, turned or stored in another way, as" if key[0] == "scan" else "identical to"
            return finding(
                "duplicate-image",
                f"the image is {same} the image of {_named(first, record)}",
                remedy=_keep_one(first, record),
            )
    return None


def _same_label(record: CaseRecord, labels: dict[tuple[str, str], list[CaseRecord]]) -> Finding | None:
    if not record.labels:
        return None
    for key in _hashes(record.label_stamp):
        for first in labels.get(key, ()):
            message = f"the label map is identical to the label map of {_named(first, record)}"
            if record.image is None and first.image is None:
                return finding("duplicate-label", message, remedy=_keep_one(first, record))
            return finding("same-label", message)
    return None


def _hashes(stamp: FileStamp | None) -> list[tuple[str, str]]:
    if stamp is None:
        return []
    hashes = (("content", stamp.content_hash), ("file", stamp.sha256), ("scan", stamp.scan_hash))
    return [(kind, value) for kind, value in hashes if value]


def _faulty(record: CaseRecord) -> bool:
    """Whether a case has an error other than being a duplicate, and therefore cannot be an original."""
    errors = {item.check for item in record.findings if item.level == "error"}
    if record.status == "quarantined" and not errors:
        return True
    return bool(errors - _DUPLICATES)


def _named(first: CaseRecord, record: CaseRecord) -> str:
    if first.patient == record.patient:
        return f"case {first.case_id}"
    return f"case {first.case_id}, which belongs to another patient ({first.patient}, not {record.patient})"


def _keep_one(first: CaseRecord, record: CaseRecord) -> str:
    return f"keep one of the two: --exclude {shlex.quote(record.case_id)} or --exclude {shlex.quote(first.case_id)}"
