"""``patchcore train STUDY``: train a UNETR of the plan's patch size, and watch it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patchcore.errors import ConfigError

__all__ = ["train"]


def _list_settings(value: bool) -> None:
    if value:
        from patchcore.config import config_keys

        for key, (default, description) in config_keys().items():
            typer.echo(f"{f'{key} = {default}':<36}{description}")
        raise typer.Exit


def train(
    study: Annotated[Path, typer.Argument(help="The study; it has a plan.")],
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")] = None,
    preset: Annotated[str | None, typer.Option(help="Size of the network: tiny, small or base.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of steps: this many epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Windows a step.")] = None,
    fold: Annotated[
        str | None, typer.Option(help="The fold that validates, from 0; or all, one after the other.")
    ] = None,
    init_from: Annotated[
        str | None, typer.Option(help="Begin with the weights of a run (of any study) or of a file, at any patch size.")
    ] = None,
    encoder_only: Annotated[bool, typer.Option("--encoder-only", help="Take over the transformer alone.")] = False,
    freeze_epochs: Annotated[int | None, typer.Option(help="Epochs in which the transformer stays as it was.")] = None,
    max_minutes: Annotated[float | None, typer.Option(help="End after this many minutes of training.")] = None,
    max_hours: Annotated[float | None, typer.Option(help="The same in hours.")] = None,
    network: Annotated[
        str | None, typer.Option(help="unetr, or one to compare with: patchcore models --networks.")
    ] = None,
    ranks: Annotated[int | None, typer.Option(help="Processes that share a step, one a GPU; 0: all GPUs.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="End after this many validations of all cases in a row without a better DSC.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The one seed.")] = None,
    name: Annotated[str | None, typer.Option(help="A few words for the run folder's name.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once; the last line is the run's id.")] = False,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Supervise in this process, for Slurm and containers.")
    ] = False,
    list_settings: Annotated[
        bool,
        typer.Option(
            "--list-settings", callback=_list_settings, is_eager=True, help="Show every setting and its default."
        ),
    ] = False,
) -> None:
    """Train a UNETR of the plan's patch size.

    The run belongs to a process of its own: closing this terminal does not end it, Ctrl-C asks it to stop with a
    checkpoint. The exit code is the run's: 0 finished, 75 stopped or paused, 1 failed. With --fold all the same
    command goes on where it was left.
    """
    from patchcore.runs import start_attempt
    from patchcore.training.launch import create_run, settings_of

    if fold is not None and fold != "all" and not fold.isdecimal():
        raise ConfigError(f"--fold {fold!r} is no fold", found=fold, remedy="write a number from 0, or all")
    if detach and fold == "all":
        raise ConfigError(
            "--fold all waits for each fold: it cannot be detached",
            remedy="leave it in tmux, or start each fold with --fold N --detach",
        )
    if detach and foreground:
        raise ConfigError("--detach and --foreground exclude each other", remedy="give one of them")
    if max_hours is not None and max_minutes is not None:
        raise ConfigError("--max-minutes and --max-hours exclude each other", remedy="give one of them")
    options = {
        "model.preset": preset,
        "train.steps": steps,
        "train.batch_size": batch_size,
        "train.fold": None if fold in (None, "all") else int(fold),
        "train.ranks": ranks,
        "model.network": network,
        "train.epochs": epochs,
        "train.patience": patience,
        "train.max_minutes": max_minutes if max_hours is None else 60 * max_hours,
        "init.source": init_from,
        "init.part": "encoder" if encoder_only else None,
        "init.freeze_epochs": freeze_epochs,
        "seed": seed,
    }
    chosen = [*(settings or []), *settings_of(options)]
    if fold == "all":
        raise typer.Exit(_train_folds(study, chosen, config, name, foreground=foreground))
    run = create_run(study, settings=chosen, toml=config, name=name)
    if detach:
        start_attempt(run)
        typer.echo(run.name)
        return
    raise typer.Exit(_follow(run, foreground=foreground))


def _follow(run: Path, *, foreground: bool) -> int:
    """Start a run's next attempt, show it to its end, and return its exit code."""
    from rich.console import Console

    from patchcore.cli.viewer import PlainLines, watch
    from patchcore.runs import start_attempt, supervise_foreground

    console = Console(markup=False, highlight=False)
    if foreground:
        lines = PlainLines(run, console)
        code = supervise_foreground(run, on_tick=lines.tick)
        lines.tick()
        return code
    start_attempt(run)
    console.print(f"run {run.name}", soft_wrap=True)
    return watch(run, console=console)


def _train_folds(study: Path, settings: list[str], config: Path | None, name: str | None, *, foreground: bool) -> int:
    from patchcore.config import resolve_config
    from patchcore.errors import LockedError
    from patchcore.evaluation.folds import fold_run, fold_scores
    from patchcore.runs import RunState

    runs = []
    for number in range(resolve_config(config, settings).train.folds):
        run = fold_run(study, number, settings=settings, toml=config, name=name)
        runs.append(run)
        if run.state is RunState.FINISHED:
            typer.echo(f"fold {number}: finished before, {run.path.name}")
            continue
        if run.state is not None and run.state is not RunState.QUEUED and not run.state.is_over:
            raise LockedError(f"fold {number} is {run.state.value}", path=run.path, remedy="wait for it, or stop it")
        typer.echo(f"fold {number}: {run.path.name}" + ("" if run.state is None else f", {run.state.value}, goes on"))
        code = _follow(run.path, foreground=foreground)
        if code:
            return code
    scores = fold_scores(runs)
    for score in scores.folds:
        typer.echo(f"fold {score.fold}: DSC {score.mean_dsc:.4f} (n = {score.n}, step {score.step}), {score.run_id}")
    typer.echo(
        f"all folds: mean DSC {scores.mean_dsc:.4f} over {scores.n} cases, each from the fold that held it out; "
        f"folds ± {scores.deviation:.4f}; training grid, used for selection"
    )
    return 0
