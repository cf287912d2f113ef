"""``patchcore texture``: IBSI's features of every lesion, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patchcore.cli.options import Threads
from patchcore.cli.progress import counted
from patchcore.cli.values import two_numbers
from patchcore.types import ExitCode

__all__ = ["texture"]


def texture(
    study: Annotated[Path, typer.Argument(help="Folder of the study, made with patchcore analyze.")],
    bin_width: Annotated[float, typer.Option(help="Width of a grey level [HU].")] = 25.0,
    bin_count: Annotated[
        int | None, typer.Option(help="Number of grey levels of each lesion, instead of --bin-width.")
    ] = None,
    hu_range: Annotated[
        str | None,
        typer.Option(help="Use only voxels between LOW,HIGH [HU], but for the shape. Negative: --hu-range=-500,400."),
    ] = None,
    threads: Threads = None,
) -> None:
    """Compute shape, intensity and texture of every lesion and write STUDY/texture.csv.

    The 482 features are those of the Image Biomarker Standardisation Initiative, by its names, in HU on the grid of
    the scan. Rows are those of lesions.csv. After Ctrl-C the same command continues. The exit code is 3 if a case
    could not be used.
    """
    from patchcore.datasets.texture import texture as compute

    limits = None if hu_range is None else two_numbers(hu_range, "--hu-range")
    with counted("Texture") as show:
        done = compute(
            study,
            bin_width=bin_width,
            bin_count=bin_count,
            intensity_range=limits,
            threads=threads,
            on_progress=show,
        )
    typer.echo(f"{done.lesions} lesions: {done.path}")
    for note in done.notes:
        typer.echo(f"  {note}")
    for case_id, reason in done.failed:
        typer.echo(f"  skipped: {case_id}: {reason}")
    if done.failed:
        raise typer.Exit(ExitCode.QUARANTINED)
