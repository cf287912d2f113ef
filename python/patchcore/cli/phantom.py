"""``patchcore phantom``: make-believe CTs whose every lesion is known, to try everything on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchcore.cli.progress import progress_bars, stderr_console
from patchcore.cli.values import int_triple, triple

if TYPE_CHECKING:
    pass

__all__ = ["phantom"]


def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to make: new, empty, or left unfinished by the same command.")],
    cases: Annotated[int, typer.Option(help="Number of cases, each of its own patient.")] = 12,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    preset: Annotated[str, typer.Option(help="Lesion sizes: small, mixed or large; or multi-organ.")] = "mixed",
    layout: Annotated[
        str,
        typer.Option(help="two-folders, nnunet, msd, lits, kits, labels-only, manifest or dicom."),
    ] = "two-folders",
    shape: Annotated[str | None, typer.Option(help="Voxels a,b,c or one number for all axes.")] = None,
    spacing: Annotated[
        str | None, typer.Option(help="mm per voxel a,b,c or one number; of big volumes 0.75,0.75,1 if not said.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Cases written at once; all cores if not said.")] = None,
) -> None:
    """Write phantom CTs with label maps (1 liver, 2 tumour) and the list of true lesions.

    With --preset multi-organ: 1 liver, 2 spleen, 3 kidney, 4 liver_tumour, 5 kidney_tumour. Volumes too big for
    memory are written plane by plane. After Ctrl-C the same command goes on with what is missing.
    """
    from patchcore.phantoms import make_phantoms

    with progress_bars(stderr_console()) as show:
        try:
            folder = make_phantoms(
                out,
                cases=cases,
                seed=seed,
                preset=preset,
                layout=layout,
                shape=None if shape is None else int_triple(shape, "--shape"),
                spacing=None if spacing is None else triple(spacing, "--spacing"),
                threads=threads,
                progress=lambda event: show("Making phantoms, slices", event.done, event.total),
            )
        except KeyboardInterrupt:
            typer.echo(f"{out} is unfinished: the same command goes on with what is missing", err=True)
            raise
    # A list of cases names no labels: what is a lesion must be said.
    named = 4 if preset == "multi-organ" else 2 if layout == "manifest" else None
    lesion_label = "" if named is None else f" --lesion-label {named}"
    typer.echo(f"{cases} phantoms ({preset}, seed {seed}) in {folder}")
    typer.echo(f"next: patchcore analyze {folder} STUDY{lesion_label}")
