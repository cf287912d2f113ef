"""``patchcore sweep STUDY --over …``: compare patch sizes, or any other setting, under one protocol."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from patchcore.cli.experiment_start import (
    AsJson,
    Detach,
    DryRun,
    Executor,
    Failures,
    KeepCheckpoints,
    Lead,
    Name,
    Preset,
    RayAddress,
    Recipe,
    Sbatch,
    Settings,
    Slots,
    TomlFile,
    cost_lines,
    experiment_options,
    go_on,
    start,
    where,
)
from patchcore.cli.values import int_list
from patchcore.errors import ConfigError, LockedError

if TYPE_CHECKING:
    from patchcore.experiments.protocol import Budget

__all__ = ["sweep"]


def sweep(
    study: Annotated[Path, typer.Argument(help="Folder of the study; it must have a plan.")],
    over: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE,VALUE,…: what is compared; may be repeated. patch_size=8,12,8x8x4, or any setting, such as "
            "optim.lr=1e-3,4e-4."
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of seeds of each value [default: 1].")] = None,
    folds: Annotated[str | None, typer.Option(help="Validation folds, separated by commas [default: 0].")] = None,
    settings: Settings = None,
    config: TomlFile = None,
    preset: Preset = None,
    recipe: Recipe = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of training steps of each point.")] = None,
    flexible: Annotated[
        bool,
        typer.Option(
            "--flexible",
            help="Train one network for all values of patch_size and evaluate it at each: the sweep at the cost of one "
            "training.",
        ),
    ] = False,
    budget: Annotated[
        str,
        typer.Option(help="What is equal for all points: steps, flops (coarse patches make more steps), or hours."),
    ] = "steps",
    hours: Annotated[
        float | None, typer.Option(help="With --budget hours: time of each training; a step is timed before the start.")
    ] = None,
    name: Name = None,
    extend: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Add values, seeds or folds to this experiment, which keeps its settings."),
    ] = None,
    slots: Slots = None,
    executor: Executor = None,
    sbatch: Sbatch = None,
    lead: Lead = None,
    ray_address: RayAddress = None,
    failures: Failures = 2,
    keep_checkpoints: KeepCheckpoints = False,
    dry_run: DryRun = False,
    detach: Detach = False,
    as_json: AsJson = False,
) -> None:
    """Compare patch sizes, or any other setting: one training per value, seed and fold.

    The same command continues an experiment: finished points are kept, the others are trained. A process of its own
    works on it: closing the terminal, or Ctrl-C, ends only the view. patchcore experiments stop ends the experiment;
    patchcore report shows what came out.
    """
    from patchcore.experiments.sweep import plan_sweep
    from patchcore.training.launch import settings_of

    place = where(executor, slots, sbatch, lead, ray_address)
    if extend is not None:
        own = (settings, config, preset, recipe, steps, hours, name)
        if any(own) or flexible or budget != "steps" or keep_checkpoints or failures != 2:
            raise ConfigError(
                "--extend keeps settings, budget, steps and the limit of failures of the experiment",
                remedy="give only --over, --seeds and --folds with it",
            )
        _extend(study, extend, over or [], seeds, folds, place, dry_run=dry_run, detach=detach, as_json=as_json)
        return
    if budget not in ("steps", "flops", "hours"):
        raise ConfigError(f"--budget {budget}", expected="steps, flops or hours")
    protocol = plan_sweep(
        study,
        over or [],
        flexible=flexible,
        budget=cast("Budget", budget),
        hours=hours,
        **experiment_options(
            seeds=1 if seeds is None else seeds,
            folds="0" if folds is None else folds,
            settings=[
                *(settings or []),
                *settings_of({"recipe": recipe, "model.preset": preset, "train.steps": steps}),
            ],
            toml=config,
            name=name,
            slots=slots,
            failures=failures,
            keep_checkpoints=keep_checkpoints,
        ),
    )
    start(study, protocol, place, dry_run=dry_run, detach=detach, as_json=as_json)


def _extend(
    study: Path,
    name: str,
    over: list[str],
    seeds: int | None,
    folds: str | None,
    place: dict[str, Any],
    *,
    dry_run: bool,
    detach: bool,
    as_json: bool,
) -> None:
    from patchcore.experiments.folder import resolve_experiment
    from patchcore.experiments.local import dispatcher_pid
    from patchcore.experiments.sweep import extend_sweep
    from patchcore.planning.reasons import count_of

    folder = resolve_experiment(study, name)
    extension = extend_sweep(folder, over, seeds=seeds or (), folds=() if folds is None else int_list(folds, "--folds"))
    text = "\n".join(
        [f"{name}: {count_of(len(extension.points), 'point')} more", *cost_lines(folder.protocol, extension.points)]
    )
    if dry_run:
        typer.echo(extension.model_dump_json(indent=2) if as_json else text)
        return
    holder = dispatcher_pid(folder.path, socket.gethostname())
    if holder is not None:
        raise LockedError(
            f"process {holder} works on the experiment, and would not see the new points",
            path=folder.path,
            remedy="stop it with patchcore experiments stop, then repeat this command: it continues",
        )
    folder.extend(extension)
    go_on(folder, text, place, detach=detach, as_json=as_json)
