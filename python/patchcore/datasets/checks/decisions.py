"""Decisions of the user about findings: true spacings, and geometry that is accepted as it is."""

from __future__ import annotations

import csv
import io
import math
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import numpy as np

from patchcore.affines import spacing_of
from patchcore.datasets.checks.geometry import spacing_findings
from patchcore.errors import DataError
from patchcore.study.cases import CaseRecord, Finding
from patchcore.study.checks import CHECKS, most_serious_first
from patchcore.types import PathLike, Triple

__all__ = [
    "COMMAND",
    "check_decisions",
    "commands",
    "decide",
    "given_spacing",
    "parse_accept",
    "parse_spacing",
    "read_spacing_file",
]

COMMAND: Final = "patchcore analyze DATASET STUDY"
"""Command that takes decisions, if the names of data set and study are not known."""

_MANY: Final = 5
"""With more cases than this, a file of spacings is proposed instead of one option per case."""
_WILD = frozenset("*?[")
# Wider than the range of any CT: a value outside is a typing error.
_SPACING_MM = (1e-2, 1e2)


def parse_spacing(texts: Iterable[str]) -> dict[str, Triple]:
    """Read ``CASE=A,B,C``: mm per voxel in the stored axis order; one number is used for all three axes.

    CASE may be a shell pattern (``volume-2*``), but not only ``*``: one spacing for every case is refused. An exact
    name has priority over a pattern, and a later pattern over an earlier pattern.

    Raises:
        DataError: A text has no case, or not three positive lengths.

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
        remedy = "write for example --spacing case_3=0.7,0.7,5 (mm along each stored axis)"
        if not equals or not case or len(values) != 3:
            raise DataError(f"--spacing {text!r} is not CASE=A,B,C", found=text, remedy=remedy)
        low, high = _SPACING_MM
        if not all(math.isfinite(value) and low <= value <= high for value in values):
            raise DataError(f"--spacing {text!r} is not a valid spacing in mm", expected=_SPACING_MM, remedy=remedy)
        if case == "all" or not set(case) - _WILD:
            raise DataError(
                f"--spacing {text!r} would give every case the same spacing",
                remedy="give a case id, or a pattern such as 'volume-2*'",
            )
        # A name that is given again moves to the end.
        spacing.pop(case, None)
        spacing[case] = (values[0], values[1], values[2])
    return spacing


def read_spacing_file(path: PathLike | None) -> list[str]:
    r"""Read spacings from a CSV with the columns ``case_id``, ``x``, ``y`` and ``z``, for many cases at once.

    Args:
        path: The file: comma, semicolon or tab; x, y and z are mm per voxel along the three stored axes. None: no file.

    Returns:
        ``CASE=A,B,C``, as :func:`parse_spacing` reads it.

    Raises:
        DataError: The file cannot be read, lacks a column, or a row has no case or is not a valid spacing.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "spacing.csv"
        >>> _ = path.write_text("case_id,x,y,z\nvolume-28,0.7,0.7,5\n")
        >>> read_spacing_file(path)
        ['volume-28=0.7,0.7,5']
    """
    if path is None:
        return []
    path = Path(path)
    wanted = ("case_id", "x", "y", "z")
    remedy = "write the columns case_id, x, y and z, and one row per case"
    try:
        text = path.read_text(encoding="utf-8-sig")
        dialect = max(",;\t", key=text.partition("\n")[0].count)
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=dialect))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", path=path, remedy="check the path") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"is not a CSV in UTF-8 ({error})", path=path, remedy="save it as CSV again") from None
    texts = []
    for number, row in enumerate(rows, 2):
        values = [str(row.get(name) or "").strip() for name in wanted]
        if not all(values):
            missing = ", ".join(name for name, value in zip(wanted, values, strict=True) if not value)
            raise DataError(f"line {number} has no {missing}", path=path, remedy=remedy)
        spacing = f"{values[0]}={','.join(value.replace(',', '.') for value in values[1:])}"
        try:
            parse_spacing([spacing])
        except DataError as error:
            raise DataError(f"line {number}: {error.message}", path=path, remedy=remedy) from None
        texts.append(spacing)
    if not texts:
        raise DataError("lists no case", path=path, remedy=remedy)
    return texts


def parse_accept(texts: Iterable[str]) -> frozenset[str]:
    """Read ``CASE:CHECK``; CASE may be ``all`` or a shell pattern (``volume-2*``).

    Raises:
        DataError: The check does not exist, or its findings cannot be accepted.

    Example:
        >>> sorted(parse_accept(["all:unit-spacing", "case_3:sheared-affine"]))
        ['all:unit-spacing', 'case_3:sheared-affine']
    """
    accepted = set()
    for text in texts:
        case, colon, check = (part.strip() for part in text.rpartition(":"))
        if not colon or not case or not check:
            raise DataError(
                f"--accept {text!r} is not CASE:CHECK",
                found=text,
                remedy="write for example --accept case_3:unit-spacing",
            )
        if check not in CHECKS:
            legal = ", ".join(name for name, info in CHECKS.items() if info.level != "error")
            raise DataError(
                f"--accept {text!r}: there is no check {check!r}", found=check, remedy=f"use one of {legal}"
            )
        if CHECKS[check].level == "error":
            raise DataError(
                f"--accept {text!r}: {check} is an error and cannot be accepted",
                found=check,
                remedy=f"{CHECKS[check].remedy}, or exclude the case with --exclude",
            )
        accepted.add(f"{case}:{check}")
    return frozenset(accepted)


def check_decisions(
    case_ids: Sequence[str], *, spacing: Mapping[str, Triple], accept: Collection[str], exclude: Collection[str] = ()
) -> None:
    """Check that every decision matches a case.

    Raises:
        DataError: A decision matches no case: probably a typing error, and the intended case would stay as it was.
    """
    remedy = f"use case ids such as {case_ids[0]}" if case_ids else "check the data set: it has no cases"
    if unknown := sorted(set(exclude).difference(case_ids)):
        raise DataError(f"--exclude matches no case: {', '.join(unknown)}", found=unknown, remedy=remedy)
    for key in spacing:
        if not any(_matches(key, case_id) for case_id in case_ids):
            raise DataError(f"--spacing matches no case: {key}", found=key, remedy=remedy)
    for item in sorted(accept):
        case = item.rpartition(":")[0]
        if case != "all" and not any(_matches(case, case_id) for case_id in case_ids):
            raise DataError(f"--accept matches no case: {item}", found=item, remedy=remedy)


def decide(
    record: CaseRecord, *, spacing: Mapping[str, Triple], accept: Collection[str], command: str = COMMAND
) -> CaseRecord:
    """Apply the user's decisions to a case and set the status of the case.

    A given spacing replaces the spacing of the header: the columns of the affine are scaled to it; their directions
    and the position of the first voxel stay. The spacing settles findings about spacing. If it is implausible itself,
    it gets new findings. Only the decisions of this call count: a finding that an earlier call settled is open again
    without its decision. A spacing that an earlier call applied stays until the case is read again.

    Args:
        record: The case, with all findings of the checks.
        spacing: mm per voxel in stored axis order, by case_id or pattern, as :func:`parse_spacing` returns it.
        accept: ``CASE:CHECK``, as :func:`parse_accept` returns it.
        command: Command that takes decisions; used in the remedy.

    Returns:
        The record with its status. An excluded case stays excluded. A case with an error is quarantined. A case with
        undecided geometry is held. Any other case is accepted, or kept for testing if its split is ``test``.
        `findings` are sorted, most serious first.

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
    """Return the commands to type for the cases that wait for a decision; each command covers all cases of a check.

    ``A,B,C`` is the place for the true spacing, if a spacing can settle the check.
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
            if len(case_ids) > _MANY:
                lines.append(f"{command} --spacing-file CSV (columns case_id, x, y, z; {len(case_ids)} cases)")
            else:
                lines.append(f"{command} " + " ".join(f"--spacing {_quoted(case_id)}=A,B,C" for case_id in case_ids))
        every = len(case_ids) > 1
        names = ["all"] if every else [_quoted(case_id) for case_id in case_ids]
        lines.append(f"{command} " + " ".join(f"--accept {name}:{check}" for name in names))
    return lines


def _with_spacing(record: CaseRecord, given: Triple, findings: list[Finding]) -> tuple[CaseRecord, list[Finding]]:
    affine = record.affine_array.copy()
    affine[:3, :3] *= np.asarray(given) / spacing_of(affine)
    new = {item.check: item for item in spacing_findings(record.shape, affine)}
    kept = []
    for item in findings:
        cured = item.check in CHECKS and CHECKS[item.check].cured_by_spacing
        if cured and item.check in new:
            # The given spacing is implausible too: keep the new message; a decision is still needed.
            kept.append(new[item.check])
        else:
            kept.append(item.model_copy(update={"decided": True}) if cured else item)
    known = {item.check for item in kept}
    kept += [item for check, item in new.items() if check not in known and CHECKS[check].level == "geometry"]
    update = {
        "given_spacing": given,
        "spacing": given,
        "affine": tuple(tuple(float(value) for value in row) for row in affine),
    }
    return record.model_copy(update=update), kept


def given_spacing(case_id: str, spacing: Mapping[str, Triple]) -> Triple | None:
    """Return the spacing that the user gave for a case, or None; an exact name has priority over a pattern."""
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
