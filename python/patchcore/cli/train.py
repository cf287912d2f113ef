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
    fold: Annotated[int | None, typer.Option(help="The fold that validates, from 0.")] = None,
    init_from: Annotated[
        str | None, typer.Option(help="Begin with the weights of a run (of any study) or of a file, at any patch size.")
    ] = None,
    encoder_only: Annotated[bool, typer.Option("--encoder-only", help="Take over the transformer alone.")] = False,
    freeze_epochs: Annotated[int | None, typer.Option(help="Epochs in which the transformer stays as it was.")] = None,
    max_minutes: Annotated[float | None, typer.Option(help="End after this many minutes of training.")] = None,
    max_hours: Annotated[float | None, typer.Option(help="The same in hours.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="End after this many validations in a row without a better DSC.")
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
    checkpoint. The exit code is the run's: 0 finished, 75 stopped or paused, 1 failed.
    """
    from patchcore.engine.launch import create_run, settings_of
    from patchcore.runs import start_attempt, supervise_foreground

    if detach and foreground:
        raise ConfigError("--detach and --foreground exclude each other", remedy="give one of them")
    if max_hours is not None and max_minutes is not None:
        raise ConfigError("--max-minutes and --max-hours exclude each other", remedy="give one of them")
    options = {
        "model.preset": preset,
        "train.steps": steps,
        "train.batch_size": batch_size,
        "train.fold": fold,
        "train.epochs": epochs,
        "train.patience": patience,
        "train.max_minutes": max_minutes if max_hours is None else 60 * max_hours,
        "init.source": init_from,
        "init.part": "encoder" if encoder_only else None,
        "init.freeze_epochs": freeze_epochs,
        "seed": seed,
    }
    run = create_run(study, settings=[*(settings or []), *settings_of(options)], toml=config, name=name)
    if detach:
        start_attempt(run)
        typer.echo(run.name)
        return
    from rich.console import Console

    from patchcore.cli.viewer import PlainLines, watch

    console = Console(markup=False, highlight=False)
    if foreground:
        lines = PlainLines(run, console)
        code = supervise_foreground(run, on_tick=lines.tick)
        lines.tick()
    else:
        start_attempt(run)
        console.print(f"run {run.name}", soft_wrap=True)
        code = watch(run, console=console)
    raise typer.Exit(code)
