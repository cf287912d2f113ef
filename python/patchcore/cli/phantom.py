"""``patchcore phantom``: create synthetic CTs with known lesions, to try out every command."""

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
    out: Annotated[
        Path,
        typer.Argument(help="Folder to create: new, empty, or unfinished from an earlier call of the same command."),
    ],
    cases: Annotated[int, typer.Option(help="Number of cases; each is a different patient.")] = 12,
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives identical files.")] = 0,
    preset: Annotated[
        str, typer.Option(help="Lesion sizes: small, mixed or large; or multi-organ for several organs.")
    ] = "mixed",
    layout: Annotated[
        str,
        typer.Option(help="Layout of the files: two-folders, nnunet, msd, lits, kits, labels-only, manifest or dicom."),
    ] = "two-folders",
    shape: Annotated[
        str | None, typer.Option(help="Size of each volume a,b,c, or one number for all axes [voxels].")
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(help="Spacing a,b,c, or one number for all axes [mm] [default for large volumes: 0.75,0.75,1]."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Number of threads [default: the number of cores, at most 8].")
    ] = None,
) -> None:
    """Create synthetic CTs (phantoms) with known lesions.

    Writes images, label maps (1 liver, 2 tumour) and a list of the true lesions. With --preset multi-organ the labels
    are 1 liver, 2 spleen, 3 kidney, 4 liver_tumour, 5 kidney_tumour.

    Volumes that are too large for memory are written plane by plane. After Ctrl-C the same command continues with the
    missing cases.
    """
    from patchcore.phantoms import PhantomProgress, cases_without_room, make_phantoms

    with progress_bars(stderr_console()) as show:

        def progress(event: PhantomProgress) -> None:
            show("Phantoms", event.cases_done, event.cases)
            show("Slices", event.done, event.total)

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
                progress=progress,
            )
        except KeyboardInterrupt:
            typer.echo(f"{out} is unfinished: run the same command again to write the missing cases", err=True)
            raise
    # A manifest declares no label names, so the lesion label must be given.
    named = 4 if preset == "multi-organ" else 2 if layout == "manifest" else None
    lesion_label = "" if named is None else f" --lesion-label {named}"
    typer.echo(f"{cases} phantoms ({preset}, seed {seed}) in {folder}")
    if crowded := cases_without_room(folder):
        typer.echo(
            f"note: {len(crowded)} of {cases} phantoms have fewer lesions than asked for, because there was no room "
            f"(the first: {crowded[0]}); give a larger --shape or --spacing"
        )
    typer.echo(f"Next: patchcore analyze {folder} STUDY{lesion_label}")
