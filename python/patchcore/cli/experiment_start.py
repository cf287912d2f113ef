"""What ``sweep`` and ``transfer`` share: their options, the list of points with its cost, and the start."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchcore.cli.values import int_list

if TYPE_CHECKING:
    from patchcore.experiments.folder import ExperimentFolder
    from patchcore.experiments.options import Options
    from patchcore.experiments.protocol import Point, Protocol

__all__ = ["cost_lines", "experiment_options", "go_on", "start", "where"]

Seeds = Annotated[int, typer.Option(min=1, help="Number of seeds of each value.")]
Folds = Annotated[str, typer.Option(help="Validation folds, separated by commas.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="SECTION.KEY=VALUE of all points; may be repeated.")]
TomlFile = Annotated[Path | None, typer.Option(help="TOML file with settings of all points.")]
Preset = Annotated[str | None, typer.Option(help="Size of the network: tiny, small, base.")]
Recipe = Annotated[str | None, typer.Option(help="Settings to start from: plain, or lesions for small lesions.")]
Name = Annotated[
    str | None, typer.Option(help="Name of the experiment [default: its kind; for a sweep, also the keys of --over].")
]
Slots = Annotated[
    int | None, typer.Option(min=1, help="Number of trainings side by side [default: one, or one per GPU].")
]
Executor = Annotated[
    str | None,
    typer.Option(help="Where trainings run: local (this machine), slurm or ray [default: as before, local]."),
]
Sbatch = Annotated[
    list[str] | None,
    typer.Option("--sbatch", help="Option for sbatch, such as --sbatch=--partition=gpu; may be repeated."),
]
Lead = Annotated[
    int | None,
    typer.Option(
        min=1, help="With Slurm: seconds before the time limit at which a training stops and requeues [default: 120]."
    ),
]
RayAddress = Annotated[
    str | None, typer.Option(help="Address of a Ray cluster [default: that of this machine, or new].")
]
Failures = Annotated[int, typer.Option(min=1, help="A point that has failed so often is not started again.")]
KeepCheckpoints = Annotated[
    bool, typer.Option("--keep-checkpoints", help="Keep the last checkpoint of finished points, too.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the points, their cost and the disk they need; write nothing.")
]
Detach = Annotated[bool, typer.Option("--detach", help="Return at once instead of following the experiment.")]
AsJson = Annotated[bool, typer.Option("--json", help="With --dry-run or --detach: print the result as JSON.")]


def experiment_options(
    *,
    seeds: int,
    folds: str,
    settings: list[str],
    toml: Path | None,
    name: str | None,
    slots: int | None,
    failures: int,
    keep_checkpoints: bool,
) -> Options:
    """Return the options that all experiments have.

    Raises:
        ConfigError: The folds are not numbers.
    """
    return {
        "seeds": seeds,
        "folds": int_list(folds, "--folds"),
        "settings": settings,
        "toml": toml,
        "name": name,
        "slots": slots,
        "failures_allowed": failures,
        "keep_checkpoints": keep_checkpoints,
    }


def where(
    executor: str | None, slots: int | None, sbatch: list[str] | None, lead_s: int | None, ray_address: str | None
) -> dict[str, Any]:
    """Return the options that were given for the place where an experiment is worked on.

    Raises:
        ConfigError: There is no such executor.
    """
    from patchcore.experiments.executors import Where

    given: dict[str, Any] = {"executor": executor, "slots": slots, "lead_s": lead_s, "address": ray_address}
    if sbatch:
        given["options"] = tuple(sbatch)
    found = {key: value for key, value in given.items() if value is not None}
    if executor is not None:
        Where(**found)  # checked before anything is written
    return found


def start(
    study: Path, protocol: Protocol, place: dict[str, Any], *, dry_run: bool, detach: bool, as_json: bool
) -> None:
    """Show what an experiment costs, or start and follow it.

    Raises:
        typer.Exit: With the exit code of the experiment, after it was followed.
    """
    from patchcore.experiments.folder import ExperimentFolder

    if dry_run:
        text = (
            protocol.model_dump_json(indent=2, exclude={"plan", "studies"})
            if as_json
            else _text(study, protocol, place)
        )
        typer.echo(text)
        return
    folder = ExperimentFolder.create(study, protocol)
    go_on(folder, _text(study, protocol, place), place, detach=detach, as_json=as_json)


def go_on(folder: ExperimentFolder, text: str, place: dict[str, Any], *, detach: bool, as_json: bool) -> None:
    """Let a process work on an experiment, and follow it.

    Raises:
        typer.Exit: With the exit code of the experiment.
    """
    from patchcore.experiments.executors import Where, chosen_before
    from patchcore.experiments.start import continue_experiment
    from patchcore.experiments.status import experiment_status

    # What was not given stays as it was, if the executor does.
    before = Where() if "executor" in place else chosen_before(folder)
    continue_experiment(folder, replace(before, **place))
    if detach:
        status = experiment_status(folder).to_json()
        typer.echo(json.dumps(status, indent=2) if as_json else folder.protocol.name)
        return
    from patchcore.cli.experiments import follow

    typer.echo(text)
    raise typer.Exit(follow(folder))


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"


def cost_lines(protocol: Protocol, points: tuple[Point, ...]) -> list[str]:
    """Return one line per point, with its cost."""
    from patchcore.config import resolve_config
    from patchcore.experiments.points import point_cost, training_flop

    width = max(len(point.point_id) for point in points)
    lines = []
    for point in points:
        model = resolve_config(settings=[*protocol.settings, *point.settings]).model
        line = f"  {point.point_id:<{width}}  {point.steps} steps"
        total = training_flop(point, protocol.settings)
        if total is not None:
            flop = f"{total / 1e12:.3g} TFLOP" if total < 1e15 else f"{total / 1e15:.3g} PFLOP"
            tokens = point_cost(model, protocol.plan_of(point), point.patch_size).tokens
            line += f", {tokens} tokens, about {flop}"
        if point.step_s is not None:
            line += f", {1000 * point.step_s:.0f} ms per step"
        if point.after is not None:
            line += f", after {point.after}"
        lines.append(line)
    return lines


def _text(study: Path, protocol: Protocol, place: dict[str, Any]) -> str:
    """Return the points with their cost, and the disk that they need."""
    from patchcore.config import resolve_config
    from patchcore.experiments.local import gpus
    from patchcore.experiments.points import point_cost
    from patchcore.experiments.start import free_bytes, needed_bytes
    from patchcore.planning.reasons import count_of

    lines = [f"{protocol.name}: {count_of(len(protocol.points), 'point')}, equal {protocol.budget}"]
    lines += cost_lines(protocol, protocol.points)
    parameters = 0
    for point in protocol.points:
        model = resolve_config(settings=[*protocol.settings, *point.settings]).model
        parameters = max(parameters, point_cost(model, protocol.plan_of(point), point.patch_size).parameters)
    on_cluster = place.get("executor") in ("slurm", "ray")
    together = int(place.get("slots") or (len(protocol.points) if on_cluster else max(1, len(gpus()))))
    need, kept = needed_bytes(protocol, parameters, together)
    free = free_bytes(study)
    lines.append(f"disk: at most {_gib(need)} for the runs ({_gib(kept)} each when finished), {_gib(free)} are free")
    if need > free:
        lines.append("warning: the disk is too small for all points")
    return "\n".join(lines)
