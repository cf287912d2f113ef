"""``patchcore analyze DATASET STUDY``: measure a data set into a study."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchcore.types import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from patchcore.study.analysis import AnalyzeProgress

__all__ = ["analyze"]

_PHASES = {"labels": "Measuring lesions", "images": "Reading images"}


def analyze(
    dataset: Annotated[
        Path, typer.Argument(help="Folder of the data set, or the CSV or JSON file that lists it; only ever read.")
    ],
    study: Annotated[Path, typer.Argument(help="Folder of the study: new, empty, or made from this data set.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the images within the data set.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Folder of the label maps within the data set.")] = None,
    layout: Annotated[str | None, typer.Option(help="The layout, if it was recognised wrongly.")] = None,
    lesion_label: Annotated[
        str | None, typer.Option(help="The lesions' label, by number or name, if it cannot be told.")
    ] = None,
    connectivity: Annotated[int | None, typer.Option(help="6, 18 or 26; at first 26.")] = None,
    min_volume_mm3: Annotated[float | None, typer.Option(help="Smaller components are no lesions; at first 0.")] = None,
    patient_regex: Annotated[
        str | None,
        typer.Option(help="Pattern whose first group, or whole match, in a case id is the patient."),
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="A case to leave out; may be repeated.")] = None,
    spacing: Annotated[
        list[str] | None, typer.Option(help="CASE=A,B,C: true mm along each stored axis; may be repeated.")
    ] = None,
    accept: Annotated[
        list[str] | None, typer.Option(help="CASE:CHECK or all:CHECK: geometry that is right as it is.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Cases worked on at once; all cores if not said.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Measure every lesion of a data set: fingerprint.json, lesions.csv, and figures.

    Faulty cases are quarantined with reason and remedy; cases whose geometry cannot be believed are held until
    --spacing or --accept decides. The exit code is then 3.

    What options decide is kept in the study and holds until decided otherwise. Unchanged files are not
    measured again.
    """
    from rich.console import Console

    from patchcore.datasets.analyze import analyze_dataset
    from patchcore.views.summary import print_summary, summary_json

    with _progress(Console(stderr=True, markup=False, highlight=False)) as show:
        analysis = analyze_dataset(
            dataset,
            study,
            images=images,
            labels=labels,
            layout=layout,
            lesion_label=lesion_label,
            connectivity=connectivity,
            min_volume_mm3=min_volume_mm3,
            patient_regex=patient_regex,
            exclude=exclude or None,
            spacing=spacing or None,
            accept=accept or None,
            threads=threads,
            progress=show,
        )
    if as_json:
        typer.echo(json.dumps(summary_json(analysis), indent=2, ensure_ascii=False))
    else:
        print_summary(analysis, Console(markup=False, highlight=False))
    if analysis.quarantined or analysis.held:
        raise typer.Exit(ExitCode.QUARANTINED)


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[AnalyzeProgress], None]]:
    """Yield what shows progress: bars with ETA on a terminal, a line for each tenth elsewhere.

    Quarantined and held cases are told as they come.
    """
    if not console.is_terminal:
        yield _plain_lines(console)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(event: AnalyzeProgress) -> None:
            if event.phase not in tasks:
                tasks[event.phase] = bars.add_task(_PHASES[event.phase], total=event.total)
            bars.update(tasks[event.phase], completed=event.done)
            _tell_quarantined(console, event)

        yield show


def _plain_lines(console: Console) -> Callable[[AnalyzeProgress], None]:
    def show(event: AnalyzeProgress) -> None:
        _tell_quarantined(console, event)
        if event.done == event.total or event.done * 10 // event.total > (event.done - 1) * 10 // event.total:
            console.print(f"{_PHASES[event.phase]}: {event.done} of {event.total}", soft_wrap=True)

    return show


def _tell_quarantined(console: Console, event: AnalyzeProgress) -> None:
    if event.record.status in ("quarantined", "held"):
        console.print(f"{event.record.case_id}: {event.record.status}: {event.record.reason}", soft_wrap=True)
