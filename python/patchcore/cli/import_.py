"""``patchcore import DICOM OUT``: convert a DICOM archive to NIfTI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patchcore.cli.options import (
    FractionalThreshold,
    InterpolateContours,
    ReaderChoice,
    Threads,
    segment_options,
)
from patchcore.cli.progress import progress_bars, stderr_console
from patchcore.types import ExitCode

__all__ = ["import_"]

_PHASES = {"search": "Reading headers", "cases": "Writing cases"}


def import_(
    dicom: Annotated[Path, typer.Argument(help="Folder of DICOM files, with any subfolders. It is never changed.")],
    out: Annotated[Path, typer.Argument(help="Folder for the NIfTI files: new, empty, or from an earlier import.")],
    readers: ReaderChoice = None,
    fractional_threshold: FractionalThreshold = None,
    interpolate_contours: InterpolateContours = None,
    threads: Threads = None,
) -> None:
    """Convert CT series with DICOM SEG or RTSTRUCT to NIfTI.

    A table of all segments is written too. Cases that are already written and unchanged are skipped. Cases that
    cannot be written are listed, and the exit code is then 3.
    """
    from patchcore.datasets.dicom.convert import import_dicom

    with progress_bars(stderr_console()) as show:
        done = import_dicom(
            dicom,
            out,
            segments=segment_options(readers, fractional_threshold, interpolate_contours),
            progress=lambda event: show(_PHASES[event.phase], event.done, event.total),
            threads=threads,
        )
    typer.echo(done.layout.reason)
    reused = sum(case.reused for case in done.cases)
    known = f" ({reused} unchanged since the last import)" if reused else ""
    typer.echo(f"{len(done.written)} cases in {done.out}{known}")
    for case in done.written:
        for note in case.notes:
            typer.echo(f"{case.case_id}: {note}")
    for case in done.failed:
        remedy = f"; {case.remedy}" if case.remedy else ""
        typer.echo(f"{case.case_id}: not written: {case.problem}{remedy}")
    if done.failed:
        raise typer.Exit(ExitCode.QUARANTINED)
