"""``patchcore manifest DATASET -o cases.csv``: propose a list of cases for a data set of any layout."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from patchcore.cli.progress import counted

__all__ = ["manifest"]

_NAMED = 8


def manifest(
    dataset: Annotated[Path, typer.Argument(help="Folder of the data set. It is never changed.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The list to write, ending in .csv.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the list if it exists.")] = False,
) -> None:
    """Propose a list of cases, for a data set whose layout is not recognised.

    Each row has an image, a label map, a patient, and how sure the pair is: sure, likely, unsure, or alone if no
    partner was found. Correct the list, then give it as DATASET to patchcore analyze.
    """
    from rich.console import Console

    from patchcore.datasets.propose import propose_manifest
    from patchcore.views.accounting import shown

    console = Console(markup=False, highlight=False, emoji=False)
    with counted("Reading headers") as show:
        proposal = propose_manifest(dataset, out, overwrite=overwrite, progress=show)
    counts = [(word, proposal.count(word)) for word in ("sure", "likely", "unsure", "alone")]
    listed = ", ".join(f"{count} {word}" for word, count in counts if count)
    rows = len(proposal.rows)
    console.print(f"{proposal.path}: {rows} row{'' if rows == 1 else 's'}: {listed}", soft_wrap=True)
    doubtful = [row for row in proposal.rows if row.sureness in ("unsure", "alone")]
    for row in doubtful[:_NAMED]:
        console.print(f"  {row.case_id}: {shown(row.why)}", soft_wrap=True)
    if len(doubtful) > _NAMED:
        console.print(f"  and {len(doubtful) - _NAMED} more; the column why names them all", soft_wrap=True)
    if proposal.left:
        left = len(proposal.left)
        console.print(f"Not in the list: {left} file{'' if left == 1 else 's'}", soft_wrap=True)
        for path, reason in proposal.left[:_NAMED]:
            console.print(f"  {shown(path.name)}: {reason}", soft_wrap=True)
    console.print(f"Next: correct the list, then patchcore check {shlex.quote(str(proposal.path))}", soft_wrap=True)
