"""What the user decides about findings: true spacings, and geometry that is accepted as it stands."""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

import numpy as np

from patchcore.affines import spacing_of
from patchcore.datasets.checks.geometry import spacing_findings
from patchcore.errors import DataError
from patchcore.study.cases import CaseRecord, Finding
from patchcore.study.checks import CHECKS, most_serious_first
from patchcore.types import Triple

__all__ = ["COMMAND", "check_decisions", "commands", "decide", "given_spacing", "parse_accept", "parse_spacing"]

COMMAND: Final = "patchcore analyze DATASET STUDY"
"""What decisions are given to, where the names of data set and study are not known."""

_WILD = frozenset("*?[")
# Wider than any CT: what lies beyond is a slip of the keyboard, not a scanner.
_SPACING_MM = (1e-2, 1e2)


def parse_spacing(texts: Iterable[str]) -> dict[str, Triple]:
    """Read ``CASE=A,B,C``: mm per voxel in the stored axis order; one number stands for all three axes.

    CASE may be a pattern as in the shell (``volume-2*``), but not the bare ``*``: a data set whose spacings are all
    wrong in the same way is to be named as such. An exact name goes before a pattern, a later pattern before an
    earlier one.

    Raises:
        DataError: No case, or not three positive lengths.

    Example:
        >>> parse_spacing(["case_3=0.7,0.7,5", "volume-2*=1"])
        {'case_3': (0.7, 0.7, 5.0), 'volume-2*': (1.0, 1.0, 1.0)}
    """
    spacing: dict[str, Triple] = {}
    for text in texts:
        case, equals, numbers = text.rpartition("=")
        case = case.strip()
        try:
            values = [float(part) for part in numbers.split(",")]
        except ValueError:
            values = []
        if len(values) == 1:
            values *= 3
        remedy = "write e.g. --spacing case_3=0.7,0.7,5: mm along each stored axis"
        if not equals or not case or len(values) != 3:
            raise DataError(f"--spacing {text!r} is not CASE=A,B,C", found=text, remedy=remedy)
        low, high = _SPACING_MM
        if not all(math.isfinite(value) and low <= value <= high for value in values):
            raise DataError(f"--spacing {text!r} is no spacing in mm", expected=_SPACING_MM, remedy=remedy)
        if case == "all" or not set(case) - _WILD:
            raise DataError(
                f"--spacing {text!r} would give every case the same spacing",
                remedy="name a case, or a pattern such as 'volume-2*'",
            )
        # Given again, a name counts as given last.
        spacing.pop(case, None)
        spacing[case] = (values[0], values[1], values[2])
    return spacing


def parse_accept(texts: Iterable[str]) -> frozenset[str]:
    """Read ``CASE:CHECK``; CASE may be ``all`` or a pattern as in the shell (``volume-2*``).

    Raises:
        DataError: No such check, or one whose findings cannot be accepted.

    Example:
        >>> sorted(parse_accept(["all:unit-spacing", "case_3:sheared-affine"]))
        ['all:unit-spacing', 'case_3:sheared-affine']
    """
    accepted = set()
    for text in texts:
        case, colon, check = (part.strip() for part in text.rpartition(":"))
        if not colon or not case or not check:
            raise DataError(
                f"--accept {text!r} is not CASE:CHECK", found=text, remedy="write e.g. --accept case_3:unit-spacing"
            )
        if check not in CHECKS:
            legal = ", ".join(name for name, info in CHECKS.items() if info.level != "error")
            raise DataError(f"--accept {text!r}: there is no check {check!r}", found=check, remedy=f"one of {legal}")
        if CHECKS[check].level == "error":
            raise DataError(
                f"--accept {text!r}: {check} is an error and cannot be accepted",
                found=check,
                remedy=f"{CHECKS[check].remedy}, or exclude the case with --exclude",
            )
        accepted.add(f"{case}:{check}")
    return frozenset(accepted)


def check_decisions(case_ids: Sequence[str], *, spacing: Mapping[str, Triple], accept: Collection[str]) -> None:
    """Check that every decision concerns a case.

    Raises:
        DataError: One names no case: a slip of the keyboard that would leave a case as it was.
    """
    example = f"a case is {case_ids[0]}" if case_ids else "the data set has no case"
    for key in spacing:
        if not any(_matches(key, case_id) for case_id in case_ids):
            raise DataError(f"--spacing names no case: {key}", found=key, remedy=example)
    for item in sorted(accept):
        case = item.rpartition(":")[0]
        if case != "all" and not any(_matches(case, case_id) for case_id in case_ids):
            raise DataError(f"--accept names no case: {item}", found=item, remedy=example)


def decide(
    record: CaseRecord, *, spacing: Mapping[str, Triple], accept: Collection[str], command: str = COMMAND
) -> CaseRecord:
    """Apply the user's decisions to a case and say whether it may be used.

    A given spacing takes the place of the header's: the affine's columns are scaled to it, directions and the place
    of the first voxel stay. It settles findings about spacing; if it is implausible itself, that is found anew.
    The decisions given are all that count: a finding that an earlier call settled is open again without them.
    A spacing that an earlier call put in place stays until the case is read again.

    Args:
        record: With all findings of the checks.
        spacing: mm per voxel in stored axis order, by case_id or pattern, as :func:`parse_spacing` returns it.
        accept: ``CASE:CHECK``, as :func:`parse_accept` returns it.
        command: The command that takes decisions, for the remedy.

    Returns:
        The record with its status: ``excluded`` stays; an error quarantines; geometry that is not decided holds; else
        it is accepted, or kept for testing where its split says so. `findings` are sorted, most serious first.

    Example:
        >>> from patchcore.study.checks import finding
        >>> record = CaseRecord(case_id="v", patient="v", image=None, label="v.nii", status="accepted",
        ...     shape=(512, 512, 75), spacing=(1, 1, 1), affine=np.eye(4).tolist(), orientation="RAS",
        ...     findings=(finding("identity-affine", "identity affine"),))
        >>> decide(record, spacing={}, accept=()).status
        'held'
        >>> cured = decide(record, spacing={"v": (0.7, 0.7, 5.0)}, accept=())
        >>> cured.status, cured.spacing
        ('accepted', (0.7, 0.7, 5.0))
    """
    findings = [item.model_copy(update={"decided": False}) for item in record.findings]
    given = given_spacing(record.case_id, spacing)
    if given is not None and min(record.spacing) > 0:
        record, findings = _with_spacing(record, given, findings)
    findings = [
        item.model_copy(update={"decided": True})
        if item.level != "error" and _accepted(record.case_id, item.check, accept)
        else item
        for item in findings
    ]
    ordered = most_serious_first(findings)
    update: dict[str, object] = {"findings": ordered}
    errors = [item for item in ordered if item.level == "error"]
    undecided = [item for item in ordered if item.level == "geometry" and not item.decided]
    if record.status == "excluded" or (record.status == "quarantined" and not errors):
        return record.model_copy(update=update)
    if errors:
        update |= {"status": "quarantined", "reason": errors[0].message, "remedy": _with_exclude(record, errors[0])}
    elif undecided:
        update |= {
            "status": "held",
            "reason": "; ".join(item.message for item in undecided),
            "remedy": _how_to_decide(record, undecided, command),
        }
    else:
        update |= {"status": "test" if record.split == "test" else "accepted", "reason": None, "remedy": None}
    return record.model_copy(update=update)


def commands(records: Iterable[CaseRecord], *, command: str = COMMAND) -> list[str]:
    """Return what to type for the cases that await a decision: one line a check, over all its cases.

    Where a true spacing can be given, ``A,B,C`` stands for it.
    """
    held: dict[str, list[str]] = {}
    cases = list(records)
    for record in cases:
        if record.status == "held":
            for item in record.findings:
                if item.level == "geometry" and not item.decided:
                    held.setdefault(item.check, []).append(record.case_id)
    lines = []
    for check, case_ids in held.items():
        if CHECKS[check].cured_by_spacing:
            lines.append(f"{command} " + " ".join(f"--spacing {_quoted(case_id)}=A,B,C" for case_id in case_ids))
        every = len(case_ids) > 1
        names = ["all"] if every else [_quoted(case_id) for case_id in case_ids]
        lines.append(f"{command} " + " ".join(f"--accept {name}:{check}" for name in names))
    return lines


def _with_spacing(record: CaseRecord, given: Triple, findings: list[Finding]) -> tuple[CaseRecord, list[Finding]]:
    affine = record.affine_array.copy()
    affine[:3, :3] *= np.asarray(given) / spacing_of(affine)
    anew = {item.check: item for item in spacing_findings(record.shape, affine)}
    kept = []
    for item in findings:
        cured = item.check in CHECKS and CHECKS[item.check].cured_by_spacing
        if cured and item.check in anew:
            # Just as implausible: the newer words count, and a decision is still due.
            kept.append(anew[item.check])
        else:
            kept.append(item.model_copy(update={"decided": True}) if cured else item)
    known = {item.check for item in kept}
    kept += [item for check, item in anew.items() if check not in known and CHECKS[check].level == "geometry"]
    update = {
        "given_spacing": given,
        "spacing": given,
        "affine": tuple(tuple(float(value) for value in row) for row in affine),
    }
    return record.model_copy(update=update), kept


def given_spacing(case_id: str, spacing: Mapping[str, Triple]) -> Triple | None:
    """Return the spacing that the user gave for a case, None where none was: an exact name before a pattern."""
    if case_id in spacing:
        return spacing[case_id]
    return next((value for key, value in reversed(list(spacing.items())) if _matches(key, case_id)), None)


def _accepted(case_id: str, check: str, accept: Collection[str]) -> bool:
    if f"{case_id}:{check}" in accept or f"all:{check}" in accept:
        return True
    for item in accept:
        case, _, name = item.rpartition(":")
        if name == check and _matches(case, case_id):
            return True
    return False


def _matches(pattern: str, case_id: str) -> bool:
    return pattern == case_id or fnmatchcase(case_id, pattern)


def _with_exclude(record: CaseRecord, item: Finding) -> str:
    exclude = f"exclude the case with --exclude {_quoted(record.case_id)}"
    if not item.remedy:
        return f"replace the file, or {exclude}"
    return item.remedy if "--exclude" in item.remedy else f"{item.remedy}, or {exclude}"


def _how_to_decide(record: CaseRecord, undecided: Sequence[Finding], command: str) -> str:
    case_id = _quoted(record.case_id)
    accept = " ".join(f"--accept {case_id}:{item.check}" for item in undecided)
    if not any(CHECKS[item.check].cured_by_spacing for item in undecided):
        return f"{command} {accept}"
    rest = "".join(f" --accept {case_id}:{item.check}" for item in undecided if not CHECKS[item.check].cured_by_spacing)
    return f"{command} --spacing {case_id}=A,B,C{rest} (true mm along each stored axis), or {command} {accept}"


def _quoted(case_id: str) -> str:
    return shlex.quote(case_id)
