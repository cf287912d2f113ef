"""``patchcore import DICOM OUT``: a DICOM archive as NIfTI."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchcore.types import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from patchcore.datasets.dicom.convert import ImportProgress

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
    from rich.console import Console

    from patchcore.datasets.dicom.convert import import_dicom

    with _progress(Console(stderr=True, markup=False, highlight=False)) as show:
        done = import_dicom(dicom, out, progress=show, threads=threads)
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


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[ImportProgress], None]]:
    """Yield what shows progress: bars with ETA on a terminal, a line for each tenth elsewhere."""
    if not console.is_terminal:
        yield _plain_lines(console)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(event: ImportProgress) -> None:
            if event.phase not in tasks:
                tasks[event.phase] = bars.add_task(_PHASES[event.phase], total=event.total)
            bars.update(tasks[event.phase], completed=event.done)

        yield show


def _plain_lines(console: Console) -> Callable[[ImportProgress], None]:
    tenths: dict[str, int] = {}

    def show(event: ImportProgress) -> None:
        total = event.total or event.done
        tenth = event.done * 10 // max(total, 1)
        if tenth != tenths.get(event.phase):
            tenths[event.phase] = tenth
            console.print(f"{_PHASES[event.phase]}: {event.done} of {total}", soft_wrap=True)

    return show
