"""``patchcore analyze DATASET STUDY``: measure the lesions of a data set and create a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchcore.cli.experiment_start import RayAddress, Sbatch
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
)
from patchcore.cli.progress import progress_bars, stderr_console
from patchcore.cli.shares import OnExecutor, ShareOption, Shares, on_cluster
from patchcore.types import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from patchcore.study.analysis import AnalyzeProgress

__all__ = ["analyze"]

_PHASES = {"labels": "Measuring lesions", "images": "Reading images"}


def analyze(
    dataset: Annotated[
        Path,
        typer.Argument(help="Folder of the data set, or a CSV or JSON file that lists its cases. It is never changed."),
    ],
    study: Annotated[Path, typer.Argument(help="Folder of the study: new, empty, or created from the same data set.")],
    images: Images = None,
    labels: Labels = None,
    layout: LayoutName = None,
    lesion_label: LesionLabel = None,
    connectivity: Annotated[int | None, typer.Option(help="Connectivity: 6, 18 or 26 [default: 26].")] = None,
    min_volume_mm3: Annotated[
        float | None, typer.Option(help="Smaller components are not counted as lesions [mm³] [default: 0].")
    ] = None,
    patient_regex: PatientRegex = None,
    exclude: Exclude = None,
    spacing: Spacing = None,
    spacing_file: SpacingFile = None,
    accept: Accept = None,
    readers: ReaderChoice = None,
    fractional_threshold: FractionalThreshold = None,
    interpolate_contours: InterpolateContours = None,
    ignore_label: Annotated[
        int | None,
        typer.Option(
            help="Label whose voxels count in no measure, no loss and no metric; 0: none [default: the label called "
            "ignore]."
        ),
    ] = None,
    instances: Annotated[
        bool | None,
        typer.Option(
            "--instances/--no-instances", help="Each number in the label maps is one lesion, as in instance maps."
        ),
    ] = None,
    threads: Threads = None,
    share: ShareOption = None,
    executor: OnExecutor = None,
    shares: Shares = None,
    sbatch: Sbatch = None,
    ray_address: RayAddress = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Measure every lesion of a data set and create a study.

    The results are fingerprint.json, lesions.csv and figures in the study.

    Faulty cases are quarantined, with a reason and a remedy. Cases with implausible geometry are held until you
    correct it (--spacing) or accept it (--accept). If there are such cases, the exit code is 3.

    The study remembers your options, and later calls use them until you give other values. Unchanged files are
    not measured again.

    With --executor slurm or ray the tasks of a cluster share the cases; this command waits for them, and does the rest.
    Data set and study must be on a file system that all hosts share.
    """
    from rich.console import Console

    from patchcore.datasets.analyze import analyze_dataset
    from patchcore.datasets.checks import read_spacing_file
    from patchcore.views.summary import print_summary, summary_json

    console = stderr_console()
    on_cluster(study, executor=executor, shares=shares, sbatch=sbatch, ray_address=ray_address, share=share)
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
            spacing=[*read_spacing_file(spacing_file), *(spacing or ())] or None,
            accept=accept or None,
            readers=readers,
            fractional_threshold=fractional_threshold,
            interpolate_contours=interpolate_contours,
            ignore_label=ignore_label,
            instances=instances,
            threads=threads,
            share=share,
            progress=report,
        )
    if share is not None:
        measured = sum(record.usable for record in analysis.records)
        typer.echo(f"share {share}: {measured} of {len(analysis.records)} cases measured; then run without --share")
        return
    if as_json:
        typer.echo(json.dumps(summary_json(analysis), indent=2, ensure_ascii=False))
    else:
        print_summary(analysis, Console(markup=False, highlight=False))
    if analysis.quarantined or analysis.held:
        raise typer.Exit(ExitCode.QUARANTINED)


def _report_quarantined(console: Console, event: AnalyzeProgress) -> None:
    if event.record.status in ("quarantined", "held"):
        console.print(f"{event.record.case_id}: {event.record.status}: {event.record.reason}", soft_wrap=True)
