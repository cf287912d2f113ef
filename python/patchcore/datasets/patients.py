"""Group cases into patients: folds and bootstrap are by patient, so scans of one patient must stay together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from patchcore.case_ids import default_patient
from patchcore.errors import DataError
from patchcore.study.analysis import Grouping

__all__ = ["group_patients", "separating_pattern"]


def group_patients(
    case_ids: Sequence[str], *, regex: str | None = None, given: Sequence[str | None] | None = None
) -> Grouping:
    r"""Group cases into patients.

    Args:
        case_ids: The cases.
        given: Patient of each case as the data set gives it; None for a case without a patient.
        regex: Pattern that is searched in each case id; its first group, or the whole match, is the patient.
            Without a pattern, the patient is the part before the first underscore if it contains a digit, else the
            whole case id.

    Raises:
        DataError: `regex` is not a valid pattern, or matches no case.

    Example:
        >>> group_patients(["LIDC-IDRI-0012_R_3", "case_00012"]).patients
        ('LIDC-IDRI-0012', 'case_00012')
        >>> group_patients(["x-12-a", "x-12-b"], regex=r"x-\d+").patients
        ('x-12', 'x-12')
    """
    if regex is None and given is not None and any(given):
        missing = sum(patient is None for patient in given)
        rest = f"; {missing} without a patient: each case is its own patient" if missing else ""
        patients = tuple(patient or case_id for case_id, patient in zip(case_ids, given, strict=True))
        return Grouping(patients, f"as given by the data set{rest}", known=True)
    if regex is None:
        patients = tuple(default_patient(case_id) for case_id in case_ids)
        example = next(((c, p) for c, p in zip(case_ids, patients, strict=True) if c != p), None)
        if example is None:
            return Grouping(patients, "each case is its own patient: no case id has a number before an underscore")
        return Grouping(
            patients, f"by the part of the case id before its first underscore ({example[0]} → {example[1]})"
        )
    try:
        pattern = re.compile(regex)
    except re.error as error:
        raise DataError(
            f"--patient-regex {regex!r} is not a valid regular expression ({error})",
            remedy=r"write for example '^(P\d+)'",
        ) from None
    matches = [pattern.search(case_id) for case_id in case_ids]
    unmatched = sum(match is None for match in matches)
    if case_ids and unmatched == len(case_ids):
        raise DataError(
            f"--patient-regex {regex!r} matches no case id",
            found=case_ids[0],
            remedy=f"write a pattern that matches case ids such as {case_ids[0]}",
        )
    patients = tuple(
        case_id if match is None else str((match.group(1) if pattern.groups else None) or match.group(0))
        for case_id, match in zip(case_ids, matches, strict=True)
    )
    rest = f"; {unmatched} without a match: each case is its own patient" if unmatched else ""
    return Grouping(patients, f"by --patient-regex {regex}{rest}", known=True)


_PATTERNS = (r"^(.*?\d{2,})", r"^(.*?_.*?\d+)", r"^([^_]+_[^_]+)", r"^([^_]+_[^_]+_[^_]+)", r"(\d{2,})")


def separating_pattern(case_ids: Sequence[str]) -> tuple[str, int] | None:
    r"""Return a ``--patient-regex`` that groups cases into several patients, none with more than half of the cases.

    Returns:
        The pattern and the number of patients; None if no simple pattern does.

    Example:
        >>> separating_pattern([f"kidney21_case_{n:05d}_lesion_{k:02d}" for n in range(4) for k in range(2)])
        ('^(.*?_.*?\\d+)', 4)
    """
    for pattern in _PATTERNS:
        matches = [re.search(pattern, case_id) for case_id in case_ids]
        found = Counter(match.group(1) for match in matches if match is not None)
        if None not in matches and len(found) > 1 and max(found.values()) <= len(case_ids) / 2:
            return pattern, len(found)
    return None
