"""Show findings by level and check, with the commands that correct or accept them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from patchcore.study.cases import CaseRecord, Finding, FindingLevel
from patchcore.study.checks import CHECKS

__all__ = ["Command", "show_findings"]

_LISTED = 20
_COMMANDS = 5
_EXAMPLES = 3


@dataclass(frozen=True)
class Command:
    """A command to copy: shown on a line of its own and never wrapped."""

    text: Text


def show_findings(
    records: Sequence[CaseRecord], *, command: str, dataset: Sequence[Finding] = ()
) -> Iterator[RenderableType | Command]:
    """Show findings about the data set, quarantined and held cases with reason and remedy, then warnings by check.

    Args:
        records: All cases.
        command: The command that takes decisions, to which options are added.
        dataset: Findings about the data set as a whole.
    """
    if dataset:
        yield Text("\nThe data set", style="bold")
    for finding in dataset:
        yield Text.assemble((finding.check, "bold"), f": {finding.message}")
        if finding.remedy:
            yield Padding(Text(f"→ {finding.remedy}"), (0, 0, 0, 2))
    yield from _quarantined([record for record in records if record.status == "quarantined"])
    yield from _held([record for record in records if record.status == "held"], command)
    yield from _decided_and_warnings(records)


def _quarantined(records: Sequence[CaseRecord]) -> Iterator[RenderableType]:
    if records:
        yield Text(f"\nQuarantined: {len(records)}", style="bold")
    for record in records[:_LISTED]:
        errors = [finding.message for finding in record.findings if finding.level == "error"]
        reason = record.reason or "; ".join(errors)
        yield Text.assemble((record.case_id, "bold"), f": {reason}")
        if record.remedy:
            yield Padding(Text(f"→ {record.remedy}"), (0, 0, 0, 2))
    if len(records) > _LISTED:
        yield Text(f"and {len(records) - _LISTED} more in cases.jsonl")


def _held(records: Sequence[CaseRecord], command: str) -> Iterator[RenderableType | Command]:
    """Show held cases grouped by check, with the commands that correct or accept their geometry."""
    if not records:
        return
    yield Text(f"\nHeld: {len(records)}, not measured until you correct or accept their geometry", style="bold")
    for check, holders in _by_check(records, "geometry", decided=False).items():
        yield _group(check, holders)
        remedy = holders[0][1].remedy
        # A remedy that is itself a command does not contain the folders; the commands below do.
        if remedy and "patchcore analyze" not in remedy:
            yield Padding(Text(f"→ {remedy}"), (0, 0, 0, 2))
        # A spacing belongs to one case; one --accept can cover all cases.
        if check in CHECKS and CHECKS[check].cured_by_spacing:
            for record, _ in holders[:_COMMANDS]:
                yield _command(f"{command} --spacing {shlex.quote(f'{record.case_id}=A,B,C')}")
            if len(holders) > _COMMANDS:
                yield Padding(
                    Text(f"and --spacing for {len(holders) - _COMMANDS} more cases; one command may repeat --spacing"),
                    (0, 0, 0, 4),
                )
        who = "all" if len(holders) > 1 else holders[0][0].case_id
        yield _command(f"{command} --accept {shlex.quote(f'{who}:{check}')}")


def _decided_and_warnings(records: Sequence[CaseRecord]) -> Iterator[RenderableType]:
    """Show findings that the user has corrected or accepted, and warnings."""
    used = [record for record in records if record.status in ("accepted", "test")]
    for heading, level, decided in (("Decided", "geometry", True), ("Warnings", "warning", None)):
        groups = _by_check(used, level, decided=decided)
        if groups:
            yield Text(f"\n{heading}: {sum(map(len, groups.values()))}", style="bold")
        for check, holders in list(groups.items())[:_LISTED]:
            yield _group(check, holders)


def _by_check(
    records: Sequence[CaseRecord], level: FindingLevel | str, *, decided: bool | None
) -> dict[str, list[tuple[CaseRecord, Finding]]]:
    """Return the findings of one level grouped by check, the most frequent check first."""
    groups: dict[str, list[tuple[CaseRecord, Finding]]] = {}
    for record in records:
        for finding in record.findings:
            if finding.level == level and decided in (None, finding.decided):
                groups.setdefault(finding.check, []).append((record, finding))
    return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))


def _group(check: str, holders: Sequence[tuple[CaseRecord, Finding]]) -> Text:
    record, finding = holders[0]
    cases = list(dict.fromkeys(record.case_id for record, _ in holders))
    if len(cases) == 1:
        return Text.assemble((check, "bold"), f" in {record.case_id}: {finding.message}")
    more = f" and {len(cases) - _EXAMPLES} more" if len(cases) > _EXAMPLES else ""
    listed = ", ".join(cases[:_EXAMPLES])
    return Text.assemble(
        (check, "bold"), f" in {len(cases)} cases ({listed}{more}); {record.case_id}: {finding.message}"
    )


def _command(command: str) -> Command:
    return Command(Text(f"    {command}"))
