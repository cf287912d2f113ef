"""``patchcore sweep STUDY --over …``: compare patch sizes, or any other setting, under one protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from patchcore.errors import ConfigError

if TYPE_CHECKING:
    from patchcore.experiments.protocol import Protocol

__all__ = ["sweep"]


def sweep(
    study: Annotated[Path, typer.Argument(help="Folder of the study; it must have a plan.")],
    over: Annotated[
        list[str],
        typer.Option(
            help="KEY=VALUE,VALUE,…: what is compared; may be repeated. patch_size=8,12,8x8x4, or any setting, such as "
            "optim.lr=1e-3,4e-4."
        ),
    ],
    seeds: Annotated[int, typer.Option(help="Number of seeds of each value.")] = 1,
    folds: Annotated[str, typer.Option(help="Validation folds, separated by commas.")] = "0",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="SECTION.KEY=VALUE of all points; may be repeated.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings of all points.")] = None,
    preset: Annotated[str | None, typer.Option(help="Size of the network: tiny, small, base.")] = None,
    steps: Annotated[int | None, typer.Option(help="Number of training steps of each point.")] = None,
    budget: Annotated[
        str,
        typer.Option(help="What is equal for all points: steps, or flops (then coarse patches make more steps)."),
    ] = "steps",
    name: Annotated[
        str | None, typer.Option(help="Name of the experiment [default: sweep- and the keys of --over].")
    ] = None,
    slots: Annotated[
        int | None, typer.Option(help="Number of trainings side by side [default: one, or one per GPU].")
    ] = None,
    failures: Annotated[int, typer.Option(help="A point that has failed so often is not started again.")] = 2,
    keep_checkpoints: Annotated[
        bool, typer.Option("--keep-checkpoints", help="Keep the last checkpoint of finished points, too.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the points, their cost and the disk they need; write nothing.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return at once instead of following the experiment.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --dry-run or --detach: print the result as JSON.")
    ] = False,
) -> None:
    """Compare patch sizes, or any other setting: one training per value, seed and fold.

    The same command continues an experiment: finished points are kept, the others are trained. A process of its own
    works on it: closing the terminal, or Ctrl-C, ends only the view. patchcore experiments stop ends the experiment.
    """
    from patchcore.experiments.folder import ExperimentFolder
    from patchcore.experiments.status import experiment_status
    from patchcore.experiments.sweep import continue_experiment, plan_sweep
    from patchcore.training.launch import settings_of

    protocol = plan_sweep(
        study,
        over,
        seeds=seeds,
        folds=_numbers("--folds", folds),
        settings=[*(settings or []), *settings_of({"model.preset": preset, "train.steps": steps})],
        toml=config,
        name=name,
        budget=_budget(budget),
        slots=slots,
        failures_allowed=failures,
        keep_checkpoints=keep_checkpoints,
    )
    if dry_run:
        typer.echo(protocol.model_dump_json(indent=2, exclude={"plan"}) if as_json else _text(study, protocol))
        return
    folder = ExperimentFolder.create(study, protocol)
    continue_experiment(folder, slots=slots)
    if detach:
        typer.echo(json.dumps(experiment_status(folder).to_json(), indent=2) if as_json else protocol.name)
        return
    from patchcore.cli.experiments import follow

    typer.echo(_text(study, protocol))
    raise typer.Exit(follow(folder))


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} {text}", expected="whole numbers separated by commas, such as 0,1") from None


def _budget(text: str) -> Literal["steps", "flops"]:
    if text not in ("steps", "flops"):
        raise ConfigError(f"--budget {text}", expected="steps or flops")
    return cast("Literal['steps', 'flops']", text)


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"


def _text(study: Path, protocol: Protocol) -> str:
    """Return the points with their cost, and the disk that they need."""
    from patchcore.config import resolve_config
    from patchcore.experiments.points import point_cost
    from patchcore.experiments.sweep import free_bytes, needed_bytes

    lines = [f"{protocol.name}: {len(protocol.points)} points, equal {protocol.budget}"]
    parameters = 0
    batch = resolve_config(settings=protocol.settings).train.batch_size
    width = max(len(point.point_id) for point in protocol.points)
    for point in protocol.points:
        model = resolve_config(settings=[*protocol.settings, *point.settings]).model
        cost = point_cost(model, protocol.plan, point.patch_size)
        parameters = max(parameters, cost.parameters)
        line = f"  {point.point_id:<{width}}  {point.steps} steps"
        if point.gflop_per_window is not None:
            # A backward pass costs twice a forward pass.
            total = 3 * point.gflop_per_window * batch * point.steps / 1e3
            flop = f"{total:.3g} TFLOP" if total < 1e3 else f"{total / 1e3:.3g} PFLOP"
            line += f", {cost.tokens} tokens, about {flop}"
        lines.append(line)
    need, kept = needed_bytes(protocol, parameters)
    free = free_bytes(study)
    lines.append(f"disk: at most {_gib(need)} for the runs ({_gib(kept)} each when finished), {_gib(free)} are free")
    if need > free:
        lines.append("warning: the disk is too small for all points")
    return "\n".join(lines)
