"""``patchcore inspect``: show the contents of a study's store and verify its checksums."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from patchcore.cli.progress import counted
from patchcore.types import ExitCode

__all__ = ["inspect"]


def inspect(
    study: Annotated[Path, typer.Argument(help="Folder of the study.")],
    verify: Annotated[bool, typer.Option(help="Read every chunk and compare its checksum.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Show the contents of STUDY/store.zarr and verify its checksums.

    The exit code is 1 if a case is damaged.
    """
    from patchcore.store.inspection import inspect_store

    with counted("Verifying" if verify else "Reading") as show:
        groups = inspect_store(Path(study), verify=verify, on_progress=show)
    damaged = sum(case.problem is not None for group in groups for case in group.cases)
    if as_json:
        typer.echo(json.dumps([group.to_json() for group in groups], indent=2, ensure_ascii=False))
    else:
        for group in groups:
            spacing = " × ".join(f"{mm:.4g}" for mm in group.spacing)
            cases = f"{len(group.cases)} case{'s' * (len(group.cases) != 1)}"
            typer.echo(f"{group.path.name}: {spacing} mm, {cases}, {group.bytes / 1e6:,.1f} MB")
            for case in group.cases:
                shape = " × ".join(map(str, case.shape))
                lesions = f"{case.lesions} lesion{'s' * (case.lesions != 1)}"
                facts = f"{shape} voxels, {lesions}, {case.bytes / 1e6:,.1f} MB"
                typer.echo(f"  {case.case_id}: " + (facts if case.problem is None else f"DAMAGED: {case.problem}"))
            for case_id, reason in group.failed.items():
                typer.echo(f"  {case_id}: not in the store: {reason}")
        state = "all checksums match" if verify else "not verified"
        remedy = "delete the folders of these cases and run patchcore prepare again"
        typer.echo(f"{damaged} damaged: {remedy}" if damaged else state)
    if damaged:
        raise typer.Exit(ExitCode.ERROR)
