"""``patchcore experiments …``: list, show, stop and retry the experiments of a study."""

from __future__ import annotations

import csv
import io
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchcore.types import ExitCode
from patchcore.views.terminal import plain

if TYPE_CHECKING:
    from patchcore.experiments.folder import ExperimentFolder
    from patchcore.experiments.status import ExperimentStatus

__all__ = ["app", "follow"]

app = typer.Typer(
    name="experiments", help="List, show, stop and retry the experiments of a study.", no_args_is_help=True
)

StudyFolder = Annotated[Path, typer.Argument(help="Folder of the study.", show_default=False)]
Named = Annotated[str, typer.Argument(metavar="NAME", help="Name of the experiment.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

_POLL_S = 2.0


@app.command("list")
def list_command(study: StudyFolder, as_json: AsJson = False) -> None:
    """List the experiments of a study."""
    from patchcore.experiments.folder import list_experiments
    from patchcore.experiments.status import experiment_status
    from patchcore.study import Study

    found = [experiment_status(folder, quick=not as_json) for folder in list_experiments(Study(study).path)]
    if as_json:
        typer.echo(json.dumps([status.to_json() for status in found], indent=2, ensure_ascii=False))
        return
    if not found:
        typer.echo(f"{study} has no experiments yet; start one with patchcore sweep {study} --over patch_size=8,12,16")
    for status in found:
        typer.echo(plain(_headline(status)))


@app.command()
def show(
    study: StudyFolder,
    name: Named,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print one row per point as CSV.")] = False,
) -> None:
    """Show the state, the run and the score of every point."""
    from patchcore.experiments.folder import resolve_experiment
    from patchcore.experiments.status import COLUMNS, experiment_status

    status = experiment_status(resolve_experiment(study, name))
    if as_json:
        typer.echo(json.dumps(status.to_json(), indent=2, ensure_ascii=False))
    elif as_csv:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(point.to_row() for point in status.points)
        typer.echo(text.getvalue(), nl=False)
    else:
        _print(status)


@app.command()
def stop(study: StudyFolder, name: Named, as_json: AsJson = False) -> None:
    """Stop an experiment: its running trainings write a checkpoint and stop. The same sweep continues it."""
    from patchcore.experiments.executors import is_worked_on
    from patchcore.experiments.executors import stop as ask_to_stop
    from patchcore.experiments.folder import resolve_experiment

    folder = resolve_experiment(study, name)
    worked_on = is_worked_on(folder)
    ask_to_stop(folder)
    if as_json:
        from patchcore.experiments.status import experiment_status

        typer.echo(json.dumps(experiment_status(folder).to_json(), indent=2, ensure_ascii=False))
        return
    if not worked_on:
        typer.echo(f"{name}: nobody works on it on this host; other hosts stop their points")
    else:
        typer.echo(f"{name}: running points stop at the next step, with a checkpoint")


@app.command()
def retry(
    study: StudyFolder,
    name: Named,
    points: Annotated[
        list[str] | None,
        typer.Option(
            "--point", help="Train this point again from the first step, even if it is finished; may be repeated."
        ),
    ] = None,
    take_over: Annotated[
        list[str] | None,
        typer.Option(help="Take the points of this host or task, which does not exist any more; may be repeated."),
    ] = None,
    slots: Annotated[int | None, typer.Option(help="Number of trainings side by side [default: as before].")] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return at once instead of following the experiment.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --detach: print the result as JSON.")] = False,
) -> None:
    """Continue an experiment: points that have failed or were stopped are tried again, finished ones are kept."""
    from patchcore.experiments.executors import chosen_before
    from patchcore.experiments.folder import resolve_experiment
    from patchcore.experiments.start import continue_experiment

    folder = resolve_experiment(study, name)
    where = None if slots is None else replace(chosen_before(folder), slots=slots)
    continue_experiment(folder, where, points=points or (), take_over=take_over or ())
    if not detach:
        raise typer.Exit(follow(folder))
    if as_json:
        from patchcore.experiments.status import experiment_status

        typer.echo(json.dumps(experiment_status(folder).to_json(), indent=2, ensure_ascii=False))


def follow(folder: ExperimentFolder) -> int:
    """Print news of an experiment until nobody works on it any more.

    Ctrl-C ends the view; the experiment continues.

    Returns:
        0 if all points are finished, 75 if it was stopped, 130 if the view was closed, else 1.
    """
    from patchcore.experiments.start import poll_s
    from patchcore.experiments.status import experiment_status

    shown: dict[str, str] = {}
    try:
        while True:
            status = experiment_status(folder, quick=True)
            for point in status.points:
                text = point.state + (f": {point.reason}" if point.reason else "")
                if point.state != "waiting" and shown.get(point.point.point_id) != text:
                    shown[point.point.point_id] = text
                    score = "" if point.dsc is None else f", validation DSC {point.dsc:.4f}"
                    run = "" if point.run_id is None else f" ({point.run_id})"
                    typer.echo(plain(f"{point.point.point_id}: {text}{score}{run}"))
            if not status.worked_on:
                status = experiment_status(folder)
                break
            time.sleep(max(_POLL_S, poll_s(folder)))
    except KeyboardInterrupt:
        typer.echo(
            f"the experiment continues; stop it with patchcore experiments stop {folder.study} {folder.protocol.name}"
        )
        return ExitCode.INTERRUPTED
    _print(status)
    if status.finished == len(status.points):
        return ExitCode.DONE
    return ExitCode.STOPPED if status.stopping else ExitCode.ERROR


def _headline(status: ExperimentStatus) -> str:
    from patchcore.planning.reasons import count_of

    counts: dict[str, int] = {}
    for point in status.points:
        counts[point.state] = counts.get(point.state, 0) + 1
    words = ", ".join(f"{number} {state}" for state, number in counts.items())
    worked_on = "" if status.worked_on or status.finished == len(status.points) else "; nobody works on it on this host"
    return f"{status.name}: {count_of(len(status.points), 'point')}: {words}{worked_on}"


def _print(status: ExperimentStatus) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(markup=False, highlight=False)
    console.print(Text(plain(_headline(status))))
    table = Table(box=None, pad_edge=False)
    for heading in ("point", "state", "step", "val. DSC", "n", "attempts", "run", "reason"):
        table.add_column(heading, overflow="fold", no_wrap=heading not in ("run", "reason"))
    for point in status.points:
        cells = (
            point.point.point_id,
            point.state,
            f"{point.step}/{point.point.steps}",
            "" if point.dsc is None else f"{point.dsc:.4f}",
            "" if point.n is None else str(point.n),
            str(point.attempts),
            point.run_id or "",
            point.reason or "",
        )
        table.add_row(*(Text(plain(cell)) for cell in cells))
    console.print(table)
    for point in status.points:
        if point.dsc_by_patch:
            found = ", ".join(f"{size} {dsc:.4f}" for size, dsc in point.dsc_by_patch.items())
            console.print(f"{point.point.point_id}: validation DSC by patch size: {found}", soft_wrap=True)
