"""``patchcore check DATASET``: check a data set without creating a study."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchcore.cli.options import (
    Accept,
    Exclude,
    FractionalThreshold,
    Images,
    InterpolateContours,
    Labels,
    LayoutName,
    LesionLabel,
    PatientRegex,
    ReaderChoice,
    Spacing,
    SpacingFile,
    Threads,
    segment_options,
)
from patchcore.cli.progress import counted
from patchcore.types import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from patchcore.datasets.check import CheckReport
    from patchcore.study.cases import CaseRecord, Finding

__all__ = ["check"]

_HEADINGS = {
    "error": "Errors: these cases would be quarantined",
    "geometry": "Geometry: these cases would be held until you correct or accept it",
    "warning": "Warnings",
}
_NAMED = 8


def check(
    dataset: Annotated[Path | None, typer.Argument(help="Folder of the data set. It is never changed.")] = None,
    images: Images = None,
    labels: Labels = None,
    layout: LayoutName = None,
    lesion_label: LesionLabel = None,
    patient_regex: PatientRegex = None,
    exclude: Exclude = None,
    spacing: Spacing = None,
    spacing_file: SpacingFile = None,
    accept: Accept = None,
    readers: ReaderChoice = None,
    fractional_threshold: FractionalThreshold = None,
    interpolate_contours: InterpolateContours = None,
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    list_checks: Annotated[bool, typer.Option("--list", help="List all checks with their remedies and exit.")] = False,
) -> None:
    """Check every case of a data set without creating a study.

    Every file is read completely. The exit code is 0 if there are no problems or only warnings. It is 3 if a case
    has an error, or geometry that you must correct or accept.
    """
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False)
    if list_checks:
        _print_checks(console, as_json=as_json)
        return
    if dataset is None:
        raise typer.BadParameter("give the folder of a data set, or use --list", param_hint="DATASET")
    from patchcore.datasets.check import check_dataset
    from patchcore.datasets.checks import read_spacing_file

    with counted("Checking") as show:
        report = check_dataset(
            dataset,
            images=images,
            labels=labels,
            layout=layout,
            lesion_label=lesion_label,
            patient_regex=patient_regex,
            exclude=exclude or (),
            spacing=[*read_spacing_file(spacing_file), *(spacing or ())],
            accept=accept or (),
            segments=segment_options(readers, fractional_threshold, interpolate_contours),
            threads=threads,
            progress=lambda event: show(event.done, event.total),
        )
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
    else:
        _print_report(report, console)
    if not report.ok:
        raise typer.Exit(ExitCode.QUARANTINED)


def _print_checks(console: Console, *, as_json: bool) -> None:
    from patchcore.datasets.checks import CHECKS, LEVELS

    if as_json:
        rows = [
            {"check": name, "level": info.level, "looks_for": info.looks_for, "remedy": info.remedy}
            for name, info in CHECKS.items()
        ]
        typer.echo(json.dumps({"schema_version": 1, "checks": rows}, indent=2, ensure_ascii=False))
        return
    for level in LEVELS:
        console.print(f"\n{level}", style="bold")
        for name, info in CHECKS.items():
            if info.level == level:
                console.print(f"  {name:<17} {info.looks_for}", soft_wrap=True)
                console.print(f"  {'':<17} → {info.remedy}", soft_wrap=True)


def _print_report(report: CheckReport, console: Console) -> None:
    from patchcore.datasets.checks import LEVELS
    from patchcore.views.accounting import case_sums, files_lines

    console.print(f"{report.dataset.name}: {case_sums([record.status for record in report.cases])}", soft_wrap=True)
    root = report.dataset if report.dataset.is_dir() else report.dataset.parent
    first, *rest = files_lines(report.layout, root)
    console.print(f"Files: {first}", soft_wrap=True)
    for line in rest:
        console.print(line, soft_wrap=True)
    console.print(f"Layout: {report.layout.name}: {report.layout.reason}", soft_wrap=True)
    console.print(f"Patients: {report.grouping}", soft_wrap=True)
    for level in LEVELS:
        groups = _grouped(report, level)
        if groups:
            console.print(f"\n{_HEADINGS[level]}", style="bold")
        for name, members in groups.items():
            _print_group(console, name, members)
    if report.commands:
        console.print(
            "\nFor each check, run one of these commands (A,B,C: true spacing along each stored axis [mm]):",
            style="bold",
        )
        for line in report.commands:
            console.print(f"  {line}", soft_wrap=True)
    if report.ok:
        console.print("\nEvery case can be used.")


def _grouped(report: CheckReport, level: str) -> dict[str, list[tuple[CaseRecord | None, Finding]]]:
    """Return the findings of one level that await a decision, grouped by check, in the order of the checks."""
    from patchcore.datasets.checks import CHECKS

    members: dict[str, list[tuple[CaseRecord | None, Finding]]] = {name: [] for name in CHECKS}
    for item in report.findings:
        if item.level == level:
            members[item.check].append((None, item))
    for record in report.cases:
        for item in record.findings:
            if item.level == level and not item.decided:
                members[item.check].append((record, item))
    return {name: found for name, found in members.items() if found}


def _print_group(console: Console, name: str, members: Sequence[tuple[CaseRecord | None, Finding]]) -> None:
    cases = {record.case_id for record, _ in members if record is not None}
    number = f" in {len(cases)} case{'' if len(cases) == 1 else 's'}" if cases else ""
    console.print(f"{name}{number}", soft_wrap=True)
    for record, item in members[:_NAMED]:
        where = "" if record is None else f"{record.case_id}: "
        console.print(f"  {where}{item.message}", soft_wrap=True)
    if len(members) > _NAMED:
        console.print(f"  and {len(members) - _NAMED} more; --json lists all")
    remedies = list(dict.fromkeys(item.remedy for _, item in members if item.remedy))
    if remedies:
        console.print(f"  → {remedies[0]}", soft_wrap=True)
