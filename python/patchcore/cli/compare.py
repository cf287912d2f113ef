"""``patchcore compare``: compare evaluated runs on their common cases."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["compare"]


def compare(
    study: Annotated[Path, typer.Argument(help="Folder of the study.")],
    runs: Annotated[list[str] | None, typer.Argument(help="Run ids [default: all evaluated runs].")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare evaluated runs on their common cases.

    Common cases are the cases on which all these runs were evaluated.
    """
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
    labels = ", ".join(map(str, found.classes))
    what = "Mean DSC" if len(found.classes) > 1 else "Mean lesion DSC"
    title = f"{what} (label {labels}) on {len(found.case_ids)} common cases, each on its own grid"
    table = Table(title=title, title_justify="left")
    for name in ("run", "patch size", "step", "role of the cases", "n"):
        table.add_column(name)
    for name in ("mean DSC [95 %]", "difference"):
        table.add_column(name, justify="right")
    for score in found.scores:
        patch = " × ".join(map(str, score.patch_size or ()))
        row = (score.run_id, patch, str(score.steps), score.role, str(score.n))
        mean = f"{number(score.mean_dsc)}{score.interval.brackets()}"
        table.add_row(*map(escape, (*row, mean)), number(score.difference, "+.3f"))
    console.print(table)
    for score in found.scores:
        for label, against in score.against_first.items():
            difference, p = against.difference, score.adjusted_p[label]
            words = f"label {label}, {score.run_id}: {number(difference.mean, '+.3f')}{difference.brackets('+.3f')}"
            words += f" (n = {difference.n})"
            if not math.isnan(p):
                words += f", Wilcoxon p = {p:.3g} (Holm, all tests together)"
            if not math.isnan(against.false_order):
                words += f", probability that this order is false: {against.false_order:.2g}"
            console.print(words, markup=False, soft_wrap=True)
    console.print(f"baseline without training (centre ball): {number(found.ball_dsc)}")
    if len(found.scores) > 1:
        console.print(escape(f"difference: mean of the paired differences to {first}; [low, high]: 95 % over patients"))
    if any(score.rewarded for score in found.scores):
        console.print(
            "a case without lesion counts as 1 for a run that predicts none there, and as 0 for a run that does: "
            + ", ".join(f"{score.run_id}: {score.rewarded} as 1" for score in found.scores if score.rewarded),
            markup=False,
            soft_wrap=True,
        )
    if found.excluded:
        console.print(f"{len(found.excluded)} cases excluded, because only some of these runs were evaluated on them")
    if found.trained:
        console.print(
            f"{len(found.trained)} cases excluded, because one of these runs, or an ancestor, trained on them"
        )
