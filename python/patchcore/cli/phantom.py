"""``patchcore phantom``: make-believe CTs whose every lesion is known, to try everything on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patchcore.cli.values import int_triple, triple

__all__ = ["phantom"]


def phantom(
    out: Annotated[Path, typer.Argument(help="folder to make; new or empty")],
    cases: Annotated[int, typer.Option(help="number of cases, each of its own patient")] = 12,
    seed: Annotated[int, typer.Option(help="the same seed gives the same bytes")] = 0,
    preset: Annotated[str, typer.Option(help="lesion sizes: small, mixed or large")] = "mixed",
    shape: Annotated[str | None, typer.Option(help="voxels a,b,c or one number for all axes")] = None,
    spacing: Annotated[str | None, typer.Option(help="mm per voxel a,b,c or one number")] = None,
) -> None:
    """Write phantom CTs with label maps (1 liver, 2 tumour) and the list of true lesions."""
    from patchcore.data.phantoms import make_phantoms

    folder = make_phantoms(
        out,
        cases=cases,
        seed=seed,
        preset=preset,
        shape=None if shape is None else int_triple(shape, "--shape"),
        spacing=None if spacing is None else triple(spacing, "--spacing"),
    )
    typer.echo(f"{cases} phantoms ({preset}, seed {seed}) in {folder}")
    typer.echo(f"next: patchcore analyze {folder} STUDY")
