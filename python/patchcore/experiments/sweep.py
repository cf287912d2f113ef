"""Compares patch sizes, or any other setting: one training per value, seed and fold, under one protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

from patchcore.config import Plan
from patchcore.config.run import RunConfig
from patchcore.errors import ConfigError
from patchcore.experiments.folder import ExperimentFolder
from patchcore.experiments.options import Common, Options, authorship, resolve_options, where_of
from patchcore.experiments.points import PATCH_SIZE, make_points, parse_axes, read_patch_size, training_flop
from patchcore.experiments.protocol import Budget, Extension, Point, Protocol
from patchcore.experiments.start import run_experiment
from patchcore.experiments.status import ExperimentStatus
from patchcore.models.registry import window_units
from patchcore.study import Study
from patchcore.training.launch import check_training
from patchcore.types import PathLike

__all__ = ["extend_sweep", "plan_sweep", "sweep"]


def plan_sweep(
    study: Study | PathLike,
    over: Mapping[str, Sequence[object]] | Sequence[str],
    *,
    flexible: bool = False,
    budget: Budget = "steps",
    hours: float | None = None,
    **options: Unpack[Options],
) -> Protocol:
    """Make and check the protocol of a sweep. Nothing is written or started.

    Args:
        study: A study with a plan.
        over: Axes: ``{"patch_size": [8, 12, (8, 8, 4)], "optim.lr": [1e-3, 4e-4]}``, or texts as on the command line:
            ``["patch_size=8,12,8x8x4"]``. ``patch_size`` changes the plan of a point, every other key a setting.
        flexible: Train one network for all values of ``patch_size``, and evaluate it at each: the sweep at the cost of
            one training per seed and fold.
        budget: What is equal for all points: ``steps``; ``flops``: as many as the plan's patch size takes; ``hours``:
            the time of a step is measured now, and gives the number of steps.
        hours: Time of each training with ``hours`` [h].
        options: As for :class:`patchcore.experiments.options.Options`.

    Raises:
        StudyError: There is no study, or it has no plan.
        ConfigError: An unknown setting, an impossible value or name, too few patients for the folds.
        PatchSizeError: A patch size has no UNETR, or does not divide the window.
    """
    study = study if isinstance(study, Study) else Study(study)
    axes = _axes(over)
    if (budget == "hours") != (hours is not None):
        raise ConfigError("a budget in hours needs a number of hours, and no other budget has one")
    common = resolve_options(options, "-".join(["flexible" if flexible else "sweep", *axes]))
    # One window for all points: that of the plan may be fitted to its own patch size.
    networks = axes.get("model.network", (common.config.model.network,))
    plan = study.plan()
    sizes = [read_patch_size(text) for text in axes.get(PATCH_SIZE, ())] or [plan.patch_size]
    plan = plan.fitting([*sizes, *window_units(networks)])
    points = _points(study, plan, axes, common, budget, hours, flexible=flexible)
    return Protocol(
        **common.of_protocol(),
        over=axes,
        flexible=flexible,
        budget=budget,
        hours=hours,
        plan=plan,
        points=points,
    )


def sweep(
    study: Study | PathLike,
    over: Mapping[str, Sequence[object]] | Sequence[str],
    *,
    flexible: bool = False,
    budget: Budget = "steps",
    hours: float | None = None,
    detach: bool = False,
    **options: Unpack[Options],
) -> ExperimentStatus:
    """Train one network per value, seed and fold, and return what was reached.

    Splits, seeds, sampling and the order of windows are the same for all points. If the experiment exists with the same
    protocol, it is continued: finished points are kept, failed and stopped ones are tried again.

    Args:
        study: As for :func:`plan_sweep`.
        over: As for :func:`plan_sweep`.
        flexible: As for :func:`plan_sweep`.
        budget: As for :func:`plan_sweep`.
        hours: As for :func:`plan_sweep`.
        detach: Return at once. A process of its own works on the experiment either way: Ctrl-C ends only the wait.
        options: As for :class:`patchcore.experiments.options.Options`.

    Raises:
        ConfigError: As for :func:`plan_sweep`; or an experiment of this name has another protocol.
        LockedError: Another process of this host works on the experiment.
        PatchcoreError: As for :func:`plan_sweep`.

    Example:
        >>> import patchcore as pc  # doctest: +SKIP
        >>> pc.sweep("study/", {"patch_size": [8, 12, 16]}, seeds=2).points  # doctest: +SKIP
    """
    protocol = plan_sweep(study, over, flexible=flexible, budget=budget, hours=hours, **options)
    root = study.path if isinstance(study, Study) else Study(study).path
    where = where_of(options)  # checked before anything is written
    return run_experiment(ExperimentFolder.create(root, protocol), where, detach=detach)


def extend_sweep(
    folder: ExperimentFolder,
    over: Mapping[str, Sequence[object]] | Sequence[str] = (),
    *,
    seeds: int | Sequence[int] = (),
    folds: Sequence[int] = (),
) -> Extension:
    """Make and check the points that further values, seeds or folds add to a sweep. Nothing is written.

    Old and new values, seeds and folds are combined with each other.

    Args:
        folder: The experiment.
        over: Further values of the axes of the experiment, as for :func:`plan_sweep`.
        seeds: Further seeds; a number: seeds 0 up to this number.
        folds: Further folds.

    Raises:
        ConfigError: Another axis, nothing new, or an impossible value.
    """
    protocol = folder.protocol
    if protocol.kind != "sweep":
        raise ConfigError("only a sweep can be extended", path=folder.path, remedy="start another experiment")
    added = _axes(over) if over else {}
    if strange := [key for key in added if key not in protocol.over]:
        raise ConfigError(
            f"--over {strange[0]}: it is no axis of the experiment {protocol.name}",
            expected=f"values of {', '.join(protocol.over)}",
            remedy="start another experiment for another axis",
        )
    if protocol.flexible and PATCH_SIZE in added:
        raise ConfigError(
            "a flexible sweep has one network for all patch sizes, so no size can be added to it",
            path=folder.path,
            remedy="start another experiment with all sizes",
        )
    known = folder.points.values()
    axes = {}
    for key, values in protocol.over.items():
        before = dict.fromkeys([*values, *(point.values[key] for point in known if key in point.values)])
        axes[key] = tuple(before | dict.fromkeys(added.get(key, ())))
    wanted = range(seeds) if isinstance(seeds, int) else seeds
    options: Options = {
        "name": protocol.name,
        "seeds": tuple(dict.fromkeys([*(point.seed for point in known), *wanted])),
        "folds": tuple(dict.fromkeys([*(point.fold for point in known), *folds])),
        "settings": protocol.settings,
    }
    common = resolve_options(options, protocol.name)
    first = next(iter(known))
    flop = training_flop(first, protocol.settings) if protocol.budget == "flops" else None
    points = _points(
        Study(folder.study), protocol.plan, axes, common, protocol.budget, protocol.hours, flop,
        flexible=protocol.flexible,
    )  # fmt: skip
    existing = {point.identity for point in known}
    names = set(folder.points)
    new = []
    for point in points:
        if point.identity not in existing:
            # The first points may have no seed or fold in their names, because there was only one.
            name = point.point_id if point.point_id not in names else f"{point.point_id}_seed{point.seed}"
            new.append(point.model_copy(update={"point_id": name}))
    if not new:
        raise ConfigError("this adds no point to the experiment", path=folder.path, remedy="name new values or seeds")
    finished = sum(place == "done" for place, _ in folder.places().values())
    return Extension(**authorship(), finished=finished, points=tuple(new))


def _points(
    study: Study,
    plan: Plan,
    axes: Mapping[str, Sequence[str]],
    common: Common,
    budget: Budget,
    hours: float | None,
    flop: float | None = None,
    *,
    flexible: bool,
) -> tuple[Point, ...]:
    def check(config: RunConfig, chosen: Plan) -> None:
        check_training(study, chosen, config)

    points = make_points(
        plan,
        axes,
        seeds=common.seeds,
        folds=common.folds,
        settings=common.settings,
        budget="steps" if budget == "hours" else budget,
        check=check,
        flop=flop,
        flexible=flexible,
    )
    if hours is None:
        return points
    from patchcore.experiments.step_time import of_equal_time

    return of_equal_time(study, plan, points, common.settings, hours=hours)


def _axes(over: Mapping[str, Sequence[object]] | Sequence[str]) -> dict[str, tuple[str, ...]]:
    texts = over if not isinstance(over, Mapping) else [_axis(key, values) for key, values in over.items()]
    return parse_axes(list(texts))


def _axis(key: str, values: Sequence[object]) -> str:
    def text(value: object) -> str:
        if key == "patch_size" and isinstance(value, list | tuple):
            return "x".join(map(str, value))
        return str(value).lower() if isinstance(value, bool) else str(value)

    return f"{key}={','.join(map(text, values))}"
