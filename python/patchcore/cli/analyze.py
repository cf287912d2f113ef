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

    from patchcore.data.analysis import AnalyzeProgress

__all__ = ["analyze"]

_PHASES = {"labels": "Measuring lesions", "images": "Reading images"}


def analyze(
    dataset: Annotated[Path, typer.Argument(help="Folder of the data set; only ever read.")],
    study: Annotated[Path, typer.Argument(help="Folder of the study: new, empty, or made from this data set.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the images within the data set.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Folder of the label maps within the data set.")] = None,
    lesion_label: Annotated[int | None, typer.Option(help="The lesions' label, if it cannot be told.")] = None,
    connectivity: Annotated[int | None, typer.Option(help="6, 18 or 26; at first 26.")] = None,
    min_volume_mm3: Annotated[float | None, typer.Option(help="Smaller components are no lesions; at first 0.")] = None,
    patient_regex: Annotated[
        str | None,
        typer.Option(help="Pattern whose first group, or whole match, in a case id is the patient."),
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="A case to leave out; may be repeated.")] = None,
    threads: Annotated[int | None, typer.Option(help="Cases worked on at once; all cores if not said.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Measure every lesion of a data set: fingerprint.json, lesions.csv, and a figure.

    Faulty cases are quarantined with reason and remedy; the exit code is then 3.

    What options decide is kept in the study and holds until decided otherwise. Unchanged files are not
    measured again.
    """
    from rich.console import Console

    from patchcore.data.analysis import analyze_dataset
    from patchcore.data.summary import print_summary, summary_json

    with _progress(Console(stderr=True, markup=False, highlight=False)) as show:
        analysis = analyze_dataset(
            dataset,
            study,
            images=images,
            labels=labels,
            lesion_label=lesion_label,
            connectivity=connectivity,
            min_volume_mm3=min_volume_mm3,
            patient_regex=patient_regex,
            exclude=exclude or None,
            threads=threads,
            progress=show,
        )
    if as_json:
        typer.echo(json.dumps(summary_json(analysis), indent=2, ensure_ascii=False))
    else:
        print_summary(analysis, Console(markup=False, highlight=False))
    if analysis.quarantined:
        raise typer.Exit(ExitCode.QUARANTINED)


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[AnalyzeProgress], None]]:
    """Yield what shows progress: bars with ETA on a terminal, a line for each tenth elsewhere.

    Quarantined cases are told as they come.
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
    if event.record.status == "quarantined":
        console.print(f"{event.record.case_id}: quarantined: {event.record.reason}", soft_wrap=True)
