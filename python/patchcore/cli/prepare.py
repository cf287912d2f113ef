"""``patchcore prepare``: every case once on the training grid, in the study's store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patchcore.cli.counted import counted
from patchcore.types import ExitCode

__all__ = ["prepare"]


def prepare(
    study: Annotated[Path, typer.Argument(help="study that has a plan")],
    workers: Annotated[
        int | None, typer.Option(help="cases worked on at once, each held in memory; default: all cores, at most 8")
    ] = None,
) -> None:
    """Bring every accepted case to the plan's spacing and write it to STUDY/store.zarr; what is there is kept.

    Training does the same for what is missing. Ctrl-C leaves whole cases only; the next call goes on. The exit code is
    3 where a case could not be brought there.
    """
    from patchcore.data.prepare import prepare as prepare_study
    from patchcore.store.inspection import stored_bytes

    with counted("Preparing") as show:
        done = prepare_study(study, workers=workers, on_progress=show)
    size = sum(stored_bytes(case.path) for case in done.cases)
    raw = sum(case.image_bytes for case in done.cases)
    where = done.cases[0].path.parent
    typer.echo(f"{len(done.cases)} cases in {where}: {size / 1e6:,.1f} MB, raw {raw / 1e6:,.1f} MB")
    for case in done.cases:
        if case.kept_lesions:
            number = f"{case.kept_lesions} lesion{'s' * (case.kept_lesions != 1)}"
            typer.echo(f"  {case.case_id}: {number} smaller than the training grid shows, kept as one voxel each")
    for failed in done.failed:
        typer.echo(f"  left out: {failed.case_id}: {failed.error}")
    if done.failed:
        raise typer.Exit(ExitCode.QUARANTINED)
