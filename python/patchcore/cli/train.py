"""``patchcore train STUDY``: train a UNETR with the plan's patch size, and show its progress."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from patchcore.cli.train_time import settings_for
from patchcore.errors import ConfigError
from patchcore.interrupts import StopSignal
from patchcore.memory import byte_count
from patchcore.types import ExitCode

__all__ = ["Follower", "train"]


def _list_settings(value: bool) -> None:
    if value:
        from patchcore.config import config_keys

        for key, (default, description) in config_keys().items():
            typer.echo(f"{f'{key} = {default}':<36}{description}")
        raise typer.Exit


def train(
    study: Annotated[Path, typer.Argument(help="Folder of the study; it must have a plan.")],
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting, as section.key=value; may be repeated; see --list-settings."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Size of the network: tiny, small or base.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Settings to start from: plain, or lesions, which were tuned on small lesions.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Number of optimiser steps.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of epochs, instead of --steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Number of windows per step.")] = None,
    fold: Annotated[
        str | None,
        typer.Option(help="Validation fold, counted from 0; or all, to train all folds one after the other."),
    ] = None,
    init_from: Annotated[
        str | None, typer.Option(help="Start from the weights of a run (of any study) or of a file, at any patch size.")
    ] = None,
    encoder_only: Annotated[
        bool, typer.Option("--encoder-only", help="With --init-from: load only the weights of the transformer.")
    ] = False,
    freeze_epochs: Annotated[
        int | None,
        typer.Option(help="Number of epochs at the start in which the weights of the transformer are frozen."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Train about this long [minutes]: as many steps as fit; a step is timed before the start."),
    ] = None,
    hours: Annotated[float | None, typer.Option(help="The same in hours.")] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Stop after this training time [minutes].")] = None,
    max_hours: Annotated[float | None, typer.Option(help="Stop after this training time [hours].")] = None,
    network: Annotated[
        str | None,
        typer.Option(help="Network to train: unetr, or one for comparison; patchcore models --networks lists them."),
    ] = None,
    ranks: Annotated[
        int | None, typer.Option(help="Number of processes that share a step, one per GPU; 0: one for every GPU.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after this many validations on all cases in a row without a better DSC.")
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(
            help="Memory limit for preparing missing cases, e.g. 4GiB [default: half of the available memory]."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None,
    name: Annotated[str | None, typer.Option(help="A few words to add to the name of the run folder.")] = None,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", help="Return as soon as the run has started; the last line of the output is the run id."
        ),
    ] = False,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Supervise the run in this process, for Slurm and containers.")
    ] = False,
    list_settings: Annotated[
        bool,
        typer.Option(
            "--list-settings",
            callback=_list_settings,
            is_eager=True,
            help="List every setting with its default and exit.",
        ),
    ] = False,
) -> None:
    """Train a UNETR with the patch size of the plan.

    The run is a process of its own: it continues when you close this terminal. Ctrl-C asks it to write a checkpoint
    and stop. The exit code is that of the run: 0 finished, 75 stopped or paused, 1 failed.

    With --fold all, running the same command again continues with the folds that are not finished.

    Started by torchrun or srun, each of their processes is one rank of one training, on one or several hosts.
    """
    from patchcore.launched import launched
    from patchcore.runs import start_attempt
    from patchcore.training.launch import create_run, join_training, settings_of

    if fold is not None and fold != "all" and not fold.isdecimal():
        raise ConfigError(f"--fold {fold!r} is not a valid fold", found=fold, remedy="give a number from 0, or all")
    if detach and fold == "all":
        raise ConfigError(
            "--fold all waits for each fold, so it cannot be detached",
            remedy="run it inside tmux, or start each fold with --fold N --detach",
        )
    if detach and foreground:
        raise ConfigError("--detach and --foreground cannot be used together", remedy="give only one of them")
    limits: dict[str, float | None] = {"--max-minutes": max_minutes, "--max-hours": max_hours}
    timed = minutes is not None or hours is not None
    lengths: dict[str, float | None] = {"--minutes": minutes, "--hours": hours, "--steps": steps, "--epochs": epochs}
    _only_one(lengths | limits if timed else limits)
    if timed and fold == "all":
        raise ConfigError(
            "--fold all with a time would measure a step again each time, and then it could not find its own folds",
            remedy="give --steps; patchcore profile STUDY says how long a step takes",
        )
    options = {
        "recipe": recipe,
        "model.preset": preset,
        "train.steps": steps,
        "train.batch_size": batch_size,
        "train.fold": None if fold in (None, "all") else int(fold),
        "train.ranks": ranks,
        "train.prepare_mib": None if max_memory is None else max(1, byte_count(max_memory, "--max-memory") >> 20),
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
    by = launched()
    if by is not None:
        if detach or fold == "all":
            raise ConfigError(
                f"{by.by} has started {by.world} processes for one training: --detach and --fold all have no meaning",
                remedy="give the number of one fold",
            )
        if timed:
            raise ConfigError(
                f"{by.by} has started {by.world} processes for one training: the time of their step is not measured",
                remedy="give --steps, and the time as --max-minutes",
            )
        if by.rank:
            join_training(by)
            return
    if timed:
        chosen += settings_for(60 * hours if hours is not None else minutes or 0.0, study, chosen, config)
    follower = Follower(foreground=foreground or by is not None)
    if fold == "all":
        follower.exit(_train_folds(study, chosen, config, name, follower))
    run = create_run(study, settings=chosen, toml=config, name=name)
    if detach:
        start_attempt(run)
        typer.echo(run.name)
        return
    follower.exit(follower.follow(run))


def _only_one(values: Mapping[str, float | None]) -> None:
    given = [name for name, value in values.items() if value is not None]
    if len(given) > 1:
        raise ConfigError(f"{given[0]} and {given[1]} cannot be used together", remedy="give only one of them")


class Follower:
    """Starts attempts, shows them until they end, and prints lines. Nobody has to read the output."""

    def __init__(self, *, foreground: bool) -> None:
        self._foreground = foreground
        self._stuck = False
        self._stop: StopSignal | None = None

    def follow(self, run: Path) -> int:
        """Start the next attempt of a run, show it until it ends, and return its exit code."""
        from rich.console import Console

        from patchcore.cli.viewer import Background, PlainLines, watch
        from patchcore.runs import start_attempt, supervise_foreground

        console = Console(markup=False, highlight=False)
        if not self._foreground:
            start_attempt(run)
            self.say(f"run {run.name}")
            return watch(run, console=console)
        # A cluster sends SIGTERM more than once. One that arrives after the end of the run must not replace its exit
        # code; one that arrives between two folds must not be lost.
        self._stop = self._stop or StopSignal()
        if self._stop.received:
            return ExitCode.STOPPED
        if self._stuck:
            return supervise_foreground(run, on_tick=self._stop.pass_on)
        output = Background(PlainLines(run, console).tick)

        def tick() -> None:
            assert self._stop is not None
            self._stop.pass_on()
            output.tick()

        code = supervise_foreground(run, on_tick=tick)
        self._stuck = not output.close()
        return code

    def say(self, text: str) -> None:
        """Print a line. The folds that follow are trained even if nobody reads the output any more."""
        if not self._stuck:
            with suppress(OSError):
                typer.echo(text)

    def exit(self, code: int) -> NoReturn:
        """End this process."""
        if self._stuck:
            # The output is blocked in a pipe that nobody reads; the interpreter would wait for it at its end.
            os._exit(code)
        raise typer.Exit(code)


def _train_folds(study: Path, settings: list[str], config: Path | None, name: str | None, follower: Follower) -> int:
    from patchcore.config import resolve_config
    from patchcore.evaluation.folds import check_ancestors, fold_run, fold_scores
    from patchcore.runs import RunState

    check_ancestors(study, settings=settings, toml=config)
    runs = []
    for number in range(resolve_config(config, settings).train.folds):
        run = fold_run(study, number, settings=settings, toml=config, name=name)
        runs.append(run)
        if run.state is RunState.FINISHED:
            follower.say(f"fold {number}: already finished, {run.path.name}")
            continue
        follower.say(
            f"fold {number}: {run.path.name}" + ("" if run.state is None else f", {run.state.value}, continues")
        )
        code = follower.follow(run.path)
        if code:
            return code
    scores = fold_scores(runs)
    for score in scores.folds:
        follower.say(f"fold {score.fold}: DSC {score.mean_dsc:.4f} (n = {score.n}, step {score.step}), {score.run_id}")
    follower.say(
        f"all folds: mean DSC {scores.mean_dsc:.4f} over {scores.n} cases, each scored by the run that did not train "
        f"on it, but chose its checkpoint by it; standard deviation between folds {scores.deviation:.4f}; on the "
        "training grid"
    )
    return 0
