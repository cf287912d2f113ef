"""``patchcore compare``: evaluated runs side by side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["compare"]


def compare(
    study: Annotated[Path, typer.Argument(help="The study.")],
    runs: Annotated[list[str] | None, typer.Argument(help="Run ids; default: all that were evaluated.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Set evaluated runs side by side, on the cases that all of them share."""
    from patchcore.evaluation.compare import compare as compare_runs

    found = compare_runs(study, runs or ())
    if json_output:
        import json
        from dataclasses import asdict

        from patchcore.files import finite

        typer.echo(json.dumps(finite(asdict(found)), indent=2))
        return

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    def number(value: float, form: str = ".3f") -> str:
        return "" if math.isnan(value) else format(value, form)

    console = Console()
    first = next((score.run_id for score in found.scores if math.isnan(score.difference)), "")
    table = Table(title=f"mean DSC on {len(found.case_ids)} common cases, each on its own grid", title_justify="left")
    for name in ("run", "patch size", "step", "cases were", "n"):
        table.add_column(name)
    for name in ("mean DSC", "difference"):
        table.add_column(name, justify="right")
    for score in found.scores:
        patch = " × ".join(map(str, score.patch_size or ()))
        row = (score.run_id, patch, str(score.steps), score.role, str(score.n))
        table.add_row(*map(escape, row), number(score.mean_dsc), number(score.difference, "+.3f"))
    console.print(table)
    console.print(f"centre ball, untrained: {number(found.ball_dsc)}")
    if len(found.scores) > 1:
        console.print(escape(f"differences are paired, to {first}"))
    if found.left_out:
        console.print(f"{len(found.left_out)} cases were evaluated for some of the runs only and are left out")
