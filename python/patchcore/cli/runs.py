"""``patchcore runs …``: list, show and control the runs of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchcore.errors import ConfigError, RunError
from patchcore.views.terminal import plain

if TYPE_CHECKING:
    from rich.console import Console

    from patchcore.runs import Acknowledgement, RunSummary, RunView

__all__ = ["app"]

app = typer.Typer(
    name="runs", help="List, show, follow, stop, pause and resume the runs of a study.", no_args_is_help=True
)

StudyOrRun = Annotated[Path, typer.Argument(help="Folder of the study, or of the run itself.", show_default=False)]
RunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN]", help="Run id, a unique part of it, or latest [default: latest].", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Wait = Annotated[float, typer.Option(help="Time to wait for the answer of the run [s].")]


@app.command("list")
def list_command(
    study: Annotated[Path, typer.Argument(help="Folder of the study.", show_default=False)], as_json: AsJson = False
) -> None:
    """List the runs of a study, newest first."""
    from patchcore.runs import list_runs

    summaries = list_runs(study)
    if as_json:
        typer.echo(json.dumps([_summary(summary) for summary in summaries], indent=2, ensure_ascii=False))
        return
    from rich.table import Table
    from rich.text import Text

    from patchcore.cli.viewer import duration

    if not summaries:
        typer.echo(f"{study} has no runs yet; start one with patchcore train {study}")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("run", no_wrap=True)  # users copy run ids
    for heading in ("kind", "state", "step", "best DSC", "time left", "patch size"):
        table.add_column(heading, overflow="fold")
    for item in summaries:
        cells = (
            item.run_id,
            item.kind,
            item.state.state.value,
            f"{item.step}" + (f"/{item.total_steps}" if item.total_steps else ""),
            "" if item.best_dsc_mean is None else f"{item.best_dsc_mean:.4f}",
            "" if item.eta_s is None else duration(item.eta_s),
            "" if item.patch_size is None else " × ".join(map(str, item.patch_size)),
        )
        table.add_row(*(Text(plain(cell)) for cell in cells))
    _console().print(table)


@app.command()
def show(study: StudyOrRun, run: RunArgument = None, as_json: AsJson = False) -> None:
    """Show the state, progress, validations and alerts of a run.

    Also shows how each attempt of the run ended.
    """
    from patchcore.runs import whole_view
    from patchcore.runs.seen import validation_role

    path = _resolve(study, run)
    view = whole_view(path)
    if as_json:
        typer.echo(json.dumps(_details(view), indent=2, ensure_ascii=False))
        return
    from patchcore.cli.viewer import PlainLines

    console = _console()
    typer.echo(plain(f"{view.run_id} ({view.kind}), created {view.created}, attempts: {view.attempts}"))
    PlainLines(path, console).show(view)
    best = view.best_validation
    if best is not None:
        role = validation_role(path)
        cases = f"; validation cases: {role}" if role else ""
        typer.echo(f"best validation: mean DSC {best.dsc_mean:.4f} at step {best.step}{cases}")
    for attempt in range(1, view.attempts + 1):
        ended = _ended(path, attempt)
        if ended:
            typer.echo(plain(f"attempt {attempt}: {ended['state']}: {ended.get('reason') or 'as requested'}"))
    if view.bad_lines:
        typer.echo(f"{view.bad_lines} lines of the event log could not be read")


@app.command()
def tail(study: StudyOrRun, run: RunArgument = None) -> None:
    """Follow a run. Ctrl-C stops following; the run continues."""
    from patchcore.cli.viewer import watch

    raise typer.Exit(watch(_resolve(study, run), console=_console(), stop_on_interrupt=False))


@app.command()
def resume(
    study: StudyOrRun,
    run: RunArgument = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once instead of following the run.")] = False,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Supervise the run in this process, for Slurm and containers.")
    ] = False,
) -> None:
    """Resume a run from its last checkpoint and follow it.

    This starts a new attempt of the run. Ctrl-C stops the run with a checkpoint.

    Started by torchrun or srun, each of their processes is one rank of the run, on one or several hosts.
    """
    from patchcore.cli.train import Follower
    from patchcore.cli.viewer import watch
    from patchcore.launched import launched
    from patchcore.runs import RunState, run_state, start_attempt
    from patchcore.training.launch import join_training

    by = launched()
    if detach and (foreground or by):
        raise ConfigError("a run in the foreground cannot be detached", remedy="leave out --detach")
    if by is not None and by.rank:
        join_training(by)
        return
    path = _resolve(study, run)
    state = run_state(path)
    if state.state is RunState.FINISHED:
        raise RunError("the run is finished", path=path, remedy="there is nothing to resume")
    if foreground or by:
        follower = Follower(foreground=True)
        follower.exit(follower.follow(path))
    attempt = start_attempt(path)
    typer.echo(f"attempt {attempt} of {path.name}")
    if not detach:
        raise typer.Exit(watch(path, console=_console()))


@app.command()
def stop(
    study: StudyOrRun,
    run: RunArgument = None,
    force: Annotated[bool, typer.Option("--force", help="Send SIGTERM now, and SIGKILL ten seconds later.")] = False,
    grace_s: Annotated[
        float | None, typer.Option(help="Time to let the run stop by itself before SIGTERM is sent [s].")
    ] = None,
    wait_s: Wait = 30.0,
) -> None:
    """Stop a run at its next step, with a checkpoint."""
    from patchcore.runs import RunState, run_state, terminate_orphan

    path = _resolve(study, run)
    if force and run_state(path).state is RunState.ORPHANED:
        if not terminate_orphan(path):
            raise RunError("the trainer could not be terminated from here", path=path)
        typer.echo("stop: terminated; the run had no supervisor any more")
        return
    args: dict[str, Any] = {"force": True} if force else {}
    _ask(path, "stop", args | ({} if grace_s is None else {"grace_s": grace_s}), wait_s)


@app.command()
def pause(study: StudyOrRun, run: RunArgument = None, wait_s: Wait = 30.0) -> None:
    """Pause a run at its next step, with a checkpoint.

    The trainer process ends. Continue the run with patchcore runs resume.
    """
    _ask(_resolve(study, run), "pause", {}, wait_s)


@app.command()
def checkpoint(study: StudyOrRun, run: RunArgument = None, wait_s: Wait = 30.0) -> None:
    """Write a checkpoint at the next step of a run."""
    _ask(_resolve(study, run), "checkpoint", {}, wait_s)


@app.command()
def validate(study: StudyOrRun, run: RunArgument = None, wait_s: Wait = 30.0) -> None:
    """Validate a run at its next step."""
    _ask(_resolve(study, run), "validate", {}, wait_s)


def _resolve(study: Path, run: str | None) -> Path:
    from patchcore.runs import resolve_run

    if run is not None:
        return resolve_run(study, run)
    # A single argument is a run folder, or a study: then the newest run is used.
    return study if (study / "run.json").exists() else resolve_run(study, "latest")


def _ask(run: Path, verb: str, args: dict[str, Any], wait_s: float) -> None:
    from patchcore.runs import request, wait_for

    identity = request(run, verb, args)
    answer = wait_for(run, identity, timeout_s=wait_s)
    if answer is None:
        typer.echo(f"{verb}: requested; no answer within {wait_s:.0f} s yet, the run acts on it at its next step")
    else:
        _print_answer(run, answer)


def _print_answer(run: Path, answer: Acknowledgement) -> None:
    if not answer.ok:
        raise RunError(f"{answer.verb} was {answer.outcome}: {answer.detail or 'no reason given'}", path=run)
    typer.echo(plain(f"{answer.verb}: {answer.outcome}" + (f" ({answer.detail})" if answer.detail else "")))


def _console() -> Console:
    from rich.console import Console

    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 200  # files and pipes have no width
    return console


def _ended(run: Path, attempt: int) -> dict[str, Any] | None:
    from patchcore.runs.paths import RunPaths, read_object

    return read_object(RunPaths(run).exit(attempt))


def _summary(item: RunSummary) -> dict[str, Any]:
    from dataclasses import asdict

    from patchcore.runs.events import plain

    record: dict[str, Any] = plain(asdict(item))
    return record


def _details(view: RunView) -> dict[str, Any]:
    from dataclasses import asdict

    from patchcore.runs.events import plain

    last = {name: series.last for name, series in sorted(view.series.items())}
    best = view.best_validation
    record: dict[str, Any] = plain(
        {
            "run_id": view.run_id,
            "path": view.path,
            "kind": view.kind,
            "created": view.created,
            "parent": view.parent,
            "state": asdict(view.state),
            "step": view.step,
            "total_steps": view.total_steps,
            "epoch": view.epoch,
            "eta_s": view.eta_s,
            "phase": view.phase,
            "last": last,
            "validations": [asdict(validation) for validation in view.validations],
            "best_validation": None if best is None else asdict(best),
            "checkpoints": [asdict(item) for item in view.checkpoints],
            "alerts": [asdict(item) for item in view.alerts],
            "attempts": [_ended(view.path, attempt) for attempt in range(1, view.attempts + 1)],
            "bad_lines": view.bad_lines,
            "config": view.config,
        }
    )
    return record
