"""``patchcore tune RUN``: choose the post-processing of a run on its validation cases."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchcore.cli.options import CheckpointName, Device, Mirror
from patchcore.types import ExitCode

if TYPE_CHECKING:
    from patchcore.evaluation.tune import Tuning

__all__ = ["ObjectiveOption", "tune"]


class ObjectiveOption(StrEnum):
    """What is maximised."""

    LESION_F1 = "lesion-f1"
    DSC = "dsc"


def tune(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
    objective: Annotated[
        ObjectiveOption, typer.Option(help="What to maximise: F1 of all lesions, or the mean DSC of the lesions.")
    ] = ObjectiveOption.LESION_F1,
    may_lose: Annotated[
        float, typer.Option(help="Share of the found lesions that a choice may lose at most.", min=0, max=1)
    ] = 0.01,
    organ_label: Annotated[
        int | None,
        typer.Option(
            help="Label of the organ that holds the lesions [default: the only other class, if there is one]."
        ),
    ] = None,
    checkpoint: CheckpointName = None,
    device: Device = None,
    mirror: Mirror = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print postprocess.json instead of sentences.")] = False,
) -> None:
    """Choose least probability, least volume and "inside the organ only" for the predicted lesions of a run.

    The choice is made on the validation cases of the run, and kept only if it helps patients that had no part in it.
    predict, evaluate and export use it for this checkpoint.
    """
    from patchcore.cli.progress import counted
    from patchcore.evaluation.tune import tune as run_tuning
    from patchcore.runs import resolve_run

    with counted("cases") as show:
        tuning = run_tuning(
            resolve_run(None, str(run)),
            objective="dsc" if objective is ObjectiveOption.DSC else "lesion-f1",
            may_lose=may_lose,
            organ_label=organ_label,
            checkpoint=checkpoint,
            device=device,
            mirror=mirror,
            on_case=lambda _case_id, number, total: show(number, total),
        )
    if as_json:
        typer.echo(tuning.path.read_text(encoding="utf-8"), nl=False)
    else:
        for line in _lines(tuning):
            typer.echo(line)
    for case_id, reason in tuning.failed:
        typer.echo(f"skipped: {case_id}: {reason}", err=True)
    if tuning.failed:
        raise typer.Exit(ExitCode.QUARANTINED)


def _lines(tuning: Tuning) -> list[str]:
    settings = tuning.settings
    gain = settings.gain
    assert gain is not None
    name = settings.objective_in_words
    best = settings.model_copy(update={"kept": True})
    lines = [
        f"best choice on {len(settings.cases)} cases: {best if best.acts else 'to change nothing'}",
        f"  without it: {_counts(tuning.before)}",
        f"  with it: {_counts(tuning.after)}",
        f"  each patient with the choice of the others: {_counts(tuning.nested)}; {name} {gain.after:.3f} instead of "
        f"{gain.before:.3f}, gain {gain.gain:.3f} [{gain.low:.3f}, {gain.high:.3f}] ({gain.patients} patients)",
    ]
    if settings.lost:
        lost = ", ".join(f"{size}: {count}" for size, count in settings.lost.items())
        lines.append(f"  found lesions that it removes, by size: {lost}")
    if not best.acts:
        verdict = "nothing is changed"
    elif settings.kept:
        verdict = "kept: predict, evaluate and export use it for this checkpoint"
    elif gain.low > 0:
        verdict = "not kept: there are too few patients"
    else:
        verdict = "not kept: the interval of the gain does not lie above 0"
    if gain.patients < 10:
        verdict += f"; with {gain.patients} patients the interval is unreliable"
    return [*lines, verdict, f"written: {tuning.path}"]


def _counts(counts: tuple[int, int, int, int]) -> str:
    lesions, found, predicted, true = counts
    return f"{found} of {lesions} lesions found, {predicted - true} of {predicted} predicted ones false"
