"""Starts and continues experiments, and says what they cost."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from patchcore.errors import LockedError
from patchcore.experiments.folder import ExperimentFolder, Place
from patchcore.experiments.local import dispatcher_pid, gpus, start_dispatcher
from patchcore.experiments.protocol import Protocol
from patchcore.experiments.status import ExperimentStatus, experiment_status

__all__ = ["continue_experiment", "free_bytes", "needed_bytes", "run_experiment"]

_POLL_S = 0.5

_BYTES_PER_WEIGHT = 4 * (2 + 2 + 1)
"""In float32: two checkpoints' weights, the optimiser's two moments, and a copy while a checkpoint is written."""


def run_experiment(folder: ExperimentFolder, *, slots: int | None = None, detach: bool = False) -> ExperimentStatus:
    """Work on an experiment on this machine, and return what was reached.

    Args:
        folder: The experiment.
        slots: Number of trainings side by side [default: one, or one per GPU].
        detach: Return at once.

    Raises:
        LockedError: Another process of this host works on the experiment.
        RunError: The process did not start.
    """
    continue_experiment(folder, slots=slots)
    while not detach and dispatcher_pid(folder.path, socket.gethostname()) is not None:
        time.sleep(_POLL_S)
    return experiment_status(folder)


def continue_experiment(folder: ExperimentFolder, *, slots: int | None = None, points: Sequence[str] = ()) -> None:
    """Open failed and stopped points again, and let a process of its own work on all open points.

    Args:
        folder: The experiment.
        slots: Number of trainings side by side [default: one, or one per GPU].
        points: Points that are trained again from the first step, finished ones too; their old runs stay.

    Raises:
        LockedError: Another process of this host works on the experiment.
        RunError: The process did not start, or a point does not exist.
    """
    host = socket.gethostname()
    holder = dispatcher_pid(folder.path, host)
    if holder is not None:
        raise LockedError(
            f"process {holder} of this host works on the experiment already",
            path=folder.path,
            remedy="watch it with patchcore experiments show, or stop it with patchcore experiments stop",
        )
    reopen(folder, points)
    start_dispatcher(folder.path, host, slots=slots or max(1, len(gpus())))


def reopen(folder: ExperimentFolder, points: Sequence[str] = ()) -> None:
    """Remove a request to stop, and open points again: those that have ended, and the named ones from the first step.

    Raises:
        RunError: A named point does not exist, or somebody works on it.
    """
    for point_id in points:
        folder.start_over(point_id)
    folder.stop_file.unlink(missing_ok=True)
    for point_id, (place, _) in folder.places().items():
        if place is Place.ENDED:
            folder.move(point_id, Place.ENDED, Place.OPEN)


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
