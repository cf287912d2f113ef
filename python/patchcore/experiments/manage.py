"""Lists, shows, stops and retries the experiments of a study, for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from patchcore.experiments import folder as folders
from patchcore.experiments.executors import chosen_before, stop
from patchcore.experiments.folder import resolve_experiment
from patchcore.experiments.start import run_experiment
from patchcore.experiments.status import ExperimentStatus, experiment_status
from patchcore.types import PathLike

__all__ = ["list_experiments", "retry_experiment", "show_experiment", "stop_experiment"]


def list_experiments(study: PathLike) -> list[ExperimentStatus]:
    """Return what the experiments of a study have reached, by name.

    Raises:
        RunError: One of them is damaged.

    Example:
        >>> import patchcore as pc  # doctest: +SKIP
        >>> [status.finished for status in pc.list_experiments("study/")]  # doctest: +SKIP
    """
    return [experiment_status(folder) for folder in folders.list_experiments(study)]


def show_experiment(study: PathLike, name: str) -> ExperimentStatus:
    """Return what the points of an experiment have reached.

    Raises:
        RunError: There is no such experiment.
    """
    return experiment_status(resolve_experiment(study, name))


def stop_experiment(study: PathLike, name: str) -> ExperimentStatus:
    """Ask everybody who works on an experiment to stop with a checkpoint, and return what was reached until now.

    Raises:
        RunError: There is no such experiment, or the cluster does not answer.
    """
    folder = resolve_experiment(study, name)
    stop(folder)
    return experiment_status(folder)


def retry_experiment(
    study: PathLike, name: str, *, points: Sequence[str] = (), slots: int | None = None, detach: bool = False
) -> ExperimentStatus:
    """Continue an experiment: failed and stopped points are tried again, finished ones are kept.

    Args:
        study: The study.
        name: Name of the experiment.
        points: Points that are trained again from the first step, finished ones too; their old runs stay.
        slots: Number of trainings side by side [default: as before].
        detach: Return at once.

    Raises:
        LockedError: Another process of this host works on the experiment.
        RunError: There is no such experiment or point, or the cluster does not answer.
    """
    folder = resolve_experiment(study, name)
    where = None if slots is None else replace(chosen_before(folder), slots=slots)
    return run_experiment(folder, where, points=points, detach=detach)
