"""``patchcore analyze DATASET STUDY``: measure a data set into a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchcore.cli.options import Accept, Exclude, Images, Labels, LayoutName, PatientRegex, Spacing, Threads
from patchcore.cli.progress import progress_bars, stderr_console
from patchcore.types import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from patchcore.study.analysis import AnalyzeProgress

__all__ = ["analyze"]

_PHASES = {"labels": "Measuring lesions", "images": "Reading images"}


def analyze(
    dataset: Annotated[
        Path, typer.Argument(help="Folder of the data set, or the CSV or JSON file that lists it; only ever read.")
    ],
    study: Annotated[Path, typer.Argument(help="Folder of the study: new, empty, or made from this data set.")],
    images: Images = None,
    labels: Labels = None,
    layout: LayoutName = None,
    lesion_label: Annotated[
        str | None, typer.Option(help="The lesions' label, by number or name, if it cannot be told.")
    ] = None,
    connectivity: Annotated[int | None, typer.Option(help="6, 18 or 26; at first 26.")] = None,
    min_volume_mm3: Annotated[float | None, typer.Option(help="Smaller components are no lesions; at first 0.")] = None,
    patient_regex: PatientRegex = None,
    exclude: Exclude = None,
    spacing: Spacing = None,
    accept: Accept = None,
    threads: Threads = None,
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

    console = stderr_console()
    with progress_bars(console) as show:

        def report(event: AnalyzeProgress) -> None:
            _report_quarantined(console, event)
            show(_PHASES[event.phase], event.done, event.total)

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
            progress=report,
        )
    if as_json:
        typer.echo(json.dumps(summary_json(analysis), indent=2, ensure_ascii=False))
    else:
        print_summary(analysis, Console(markup=False, highlight=False))
    if analysis.quarantined or analysis.held:
        raise typer.Exit(ExitCode.QUARANTINED)


def _report_quarantined(console: Console, event: AnalyzeProgress) -> None:
    if event.record.status in ("quarantined", "held"):
        console.print(f"{event.record.case_id}: {event.record.status}: {event.record.reason}", soft_wrap=True)
