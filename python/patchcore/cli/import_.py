"""``patchcore import DICOM OUT``: a DICOM archive as NIfTI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchcore.cli.progress import progress_bars, stderr_console
from patchcore.types import ExitCode

if TYPE_CHECKING:
    pass

__all__ = ["import_"]

_PHASES = {"search": "Reading headers", "cases": "Writing cases"}


def import_(
    dicom: Annotated[Path, typer.Argument(help="Folder of DICOM files, however nested; only ever read.")],
    out: Annotated[Path, typer.Argument(help="Folder of the NIfTI files: new, empty, or of an earlier import.")],
    threads: Annotated[int | None, typer.Option(help="Cases worked on at once; all cores if not said.")] = None,
) -> None:
    """Write CT series with their DICOM SEG or RTSTRUCT as NIfTI, with a table of all segments.

    What is done already and unchanged is skipped. Cases that cannot be written are listed; the exit code is then 3.
    """
    from patchcore.datasets.dicom.convert import import_dicom

    with progress_bars(stderr_console()) as show:
        done = import_dicom(
            dicom,
            out,
            progress=lambda event: show(_PHASES[event.phase], event.done, event.total),
            threads=threads,
        )
    typer.echo(done.layout.reason)
    reused = sum(case.reused for case in done.cases)
    known = f" ({reused} of them unchanged since the last import)" if reused else ""
    typer.echo(f"{len(done.written)} cases are in {done.out}{known}")
    for case in done.written:
        for note in case.notes:
            typer.echo(f"{case.case_id}: {note}")
    for case in done.failed:
        remedy = f"; {case.remedy}" if case.remedy else ""
        typer.echo(f"{case.case_id}: not written: {case.problem}{remedy}")
    if done.failed:
        raise typer.Exit(ExitCode.QUARANTINED)
