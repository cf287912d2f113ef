"""Compares patch sizes, or any other setting: one training per value, seed and fold, under one protocol."""

from __future__ import annotations

import re
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from patchcore.config import resolve_config
from patchcore.errors import ConfigError, LockedError
from patchcore.experiments.folder import ExperimentFolder, Place
from patchcore.experiments.local import dispatcher_pid, gpus, start_dispatcher
from patchcore.experiments.points import make_points, parse_axes, settings_of_toml
from patchcore.experiments.protocol import Budget, Protocol
from patchcore.experiments.status import ExperimentStatus, experiment_status
from patchcore.runs.control import author_name
from patchcore.study import Study
from patchcore.threads import core_count
from patchcore.types import PathLike

__all__ = ["continue_experiment", "plan_sweep", "sweep"]

_POLL_S = 0.5

_BYTES_PER_WEIGHT = 4 * (2 + 2 + 1)
"""In float32: two checkpoints' weights, the optimiser's two moments, and a copy while a checkpoint is written."""


def plan_sweep(
    study: Study | PathLike,
    over: Mapping[str, Sequence[object]] | Sequence[str],
    *,
    seeds: int | Sequence[int] = 1,
    folds: Sequence[int] = (0,),
    settings: Sequence[str] = (),
    toml: PathLike | None = None,
    name: str | None = None,
    budget: Budget = "steps",
    slots: int | None = None,
    failures_allowed: int = 2,
    keep_checkpoints: bool = False,
) -> Protocol:
    """Make and check the protocol of a sweep. Nothing is written or started.

    Args:
        study: A study with a plan.
        over: Axes: ``{"patch_size": [8, 12, (8, 8, 4)], "optim.lr": [1e-3, 4e-4]}``, or texts as on the command line:
            ``["patch_size=8,12,8x8x4"]``. ``patch_size`` changes the plan of a point, every other key a setting.
        seeds: Number of seeds (0, 1, …), or the seeds.
        folds: Validation folds.
        settings: ``section.key=value`` of all points.
        toml: A TOML file of settings; `settings` override it.
        name: Name of the experiment; default: ``sweep-`` and its axes.
        budget: ``steps``: equal numbers of steps; ``flops``: equal FLOP.
        slots: Number of trainings side by side; sets the CPU threads of each. Default: one, or one per GPU.
        failures_allowed: A point that has failed so often is not started again.
        keep_checkpoints: Whether a finished point keeps more than its best weights.

    Raises:
        StudyError: There is no study, or it has no plan.
        ConfigError: An unknown setting, an impossible value or name, too few patients for the folds.
        PatchSizeError: A patch size has no UNETR, or does not divide the window.
    """
    study = study if isinstance(study, Study) else Study(study)
    texts = over if not isinstance(over, Mapping) else [_axis(key, values) for key, values in over.items()]
    axes = parse_axes(list(texts))
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    for what, numbers in (("--seeds", chosen), ("--folds", tuple(folds))):
        if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 0:
            raise ConfigError(f"{what} {', '.join(map(str, numbers))}", expected="different numbers from 0 up")
    named = name or "sweep-" + "-".join(axes)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", named):
        raise ConfigError(
            f"experiment name {named!r}", expected="up to 80 letters, digits, dots, dashes and underscores"
        )
    common = [*(settings_of_toml(toml) if toml is not None else ()), *settings]
    config = resolve_config(settings=common)
    if not config.train.threads and not gpus():
        # The number of threads changes rounding: it must not depend on the machine that a point happens to run on.
        common.append(f"train.threads={max(1, core_count() // (slots or 1))}")
    plan = study.plan()
    points = make_points(plan, axes, seeds=chosen, folds=tuple(folds), settings=common, budget=budget)
    study.folds(config.train.folds, config.train.fold_seed)
    try:
        patchcore_version = version("patchcore")
    except PackageNotFoundError:
        patchcore_version = "unknown"
    return Protocol(
        name=named,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        user=author_name(),
        patchcore=patchcore_version,
        over=axes,
        seeds=chosen,
        folds=tuple(folds),
        budget=budget,
        settings=tuple(common),
        failures_allowed=failures_allowed,
        keep_checkpoints=keep_checkpoints,
        plan=plan,
        points=points,
    )


def sweep(
    study: Study | PathLike,
    over: Mapping[str, Sequence[object]] | Sequence[str],
    *,
    seeds: int | Sequence[int] = 1,
    folds: Sequence[int] = (0,),
    settings: Sequence[str] = (),
    toml: PathLike | None = None,
    name: str | None = None,
    budget: Budget = "steps",
    slots: int | None = None,
    failures_allowed: int = 2,
    keep_checkpoints: bool = False,
    detach: bool = False,
) -> ExperimentStatus:
    """Train one network per value, seed and fold, and return what was reached.

    Splits, seeds, sampling and the order of windows are the same for all points. If the experiment exists with the same
    protocol, it is continued: finished points are kept, failed and stopped ones are tried again.

    Args:
        study: As for :func:`plan_sweep`.
        over: As for :func:`plan_sweep`.
        seeds: As for :func:`plan_sweep`.
        folds: As for :func:`plan_sweep`.
        settings: As for :func:`plan_sweep`.
        toml: As for :func:`plan_sweep`.
        name: As for :func:`plan_sweep`.
        budget: As for :func:`plan_sweep`.
        slots: As for :func:`plan_sweep`.
        failures_allowed: As for :func:`plan_sweep`.
        keep_checkpoints: As for :func:`plan_sweep`.
        detach: Return at once. A process of its own works on the experiment either way: Ctrl-C ends only the wait.

    Raises:
        ConfigError: As for :func:`plan_sweep`; or an experiment of this name has another protocol.
        LockedError: Another process of this host works on the experiment.
        PatchcoreError: As for :func:`plan_sweep`.

    Example:
        >>> import patchcore as pc  # doctest: +SKIP
        >>> pc.sweep("study/", {"patch_size": [8, 12, 16]}, seeds=2).points  # doctest: +SKIP
    """
    protocol = plan_sweep(
        study, over, seeds=seeds, folds=folds, settings=settings, toml=toml, name=name, budget=budget, slots=slots,
        failures_allowed=failures_allowed, keep_checkpoints=keep_checkpoints,
    )  # fmt: skip
    root = study.path if isinstance(study, Study) else Path(study)
    folder = ExperimentFolder.create(root, protocol)
    continue_experiment(folder, slots=slots)
    while not detach and dispatcher_pid(folder.path, socket.gethostname()) is not None:
        time.sleep(_POLL_S)
    return experiment_status(folder)


def continue_experiment(folder: ExperimentFolder, *, slots: int | None = None) -> None:
    """Open failed and stopped points again, and let a process of its own work on all open points.

    Args:
        folder: The experiment.
        slots: Number of trainings side by side [default: one, or one per GPU].

    Raises:
        LockedError: Another process of this host works on the experiment.
        RunError: The process did not start.
    """
    host = socket.gethostname()
    holder = dispatcher_pid(folder.path, host)
    if holder is not None:
        raise LockedError(
            f"process {holder} of this host works on the experiment already",
            path=folder.path,
            remedy="watch it with patchcore experiments show, or stop it with patchcore experiments stop",
        )
    folder.stop_file.unlink(missing_ok=True)
    for point_id, (place, _) in folder.places().items():
        if place is Place.ENDED:
            folder.move(point_id, Place.ENDED, Place.OPEN)
    start_dispatcher(folder.path, host, slots=slots or max(1, len(gpus())))


def needed_bytes(protocol: Protocol, parameters: int) -> tuple[int, int]:
    """Return how much disk the runs of an experiment take at most, and how much each keeps when it has finished.

    Args:
        protocol: The experiment.
        parameters: Number of weights of the largest network.
    """
    while_training = parameters * _BYTES_PER_WEIGHT
    kept = while_training if protocol.keep_checkpoints else parameters * 4
    return len(protocol.points) * kept + while_training, kept


def free_bytes(study: Path) -> int:
    """Return the free space of the disk of a study."""
    return shutil.disk_usage(study).free


def _axis(key: str, values: Sequence[object]) -> str:
    def text(value: object) -> str:
        if key == "patch_size" and isinstance(value, list | tuple):
            return "x".join(map(str, value))
        return str(value).lower() if isinstance(value, bool) else str(value)

    return f"{key}={','.join(map(text, values))}"
