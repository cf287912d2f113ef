"""Starts and continues experiments, and says what they cost."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from patchcore.errors import LockedError, RunError
from patchcore.experiments.executors import Where, chosen_before, is_worked_on, release_lost, remember
from patchcore.experiments.folder import ExperimentFolder, Place
from patchcore.experiments.local import dispatcher_pid, gpus, start_dispatcher
from patchcore.experiments.protocol import Protocol
from patchcore.experiments.status import ExperimentStatus, experiment_status
from patchcore.runs.paths import RunPaths

__all__ = ["continue_experiment", "free_bytes", "needed_bytes", "poll_s", "run_experiment"]

_POLL_S = 0.5
_POLL_SLURM_S = 15.0  # each look asks the controller of the whole cluster

_BYTES_PER_WEIGHT = 4 * (2 + 2 + 1)
"""In float32: two checkpoints' weights, the optimiser's two moments, and a copy while a checkpoint is written."""


def run_experiment(
    folder: ExperimentFolder, where: Where | None = None, *, points: Sequence[str] = (), detach: bool = False
) -> ExperimentStatus:
    """Work on an experiment, and return what was reached.

    Args:
        folder: The experiment.
        where: Where it is worked on [default: where it was before].
        points: Points that are trained again from the first step.
        detach: Return at once.

    Raises:
        LockedError: Another process of this host works on the experiment.
        RunError: The process did not start, or the cluster does not answer.
    """
    continue_experiment(folder, where, points=points)
    while not detach and is_worked_on(folder):
        time.sleep(poll_s(folder))
    return experiment_status(folder)


def poll_s(folder: ExperimentFolder) -> float:
    """Return the time between two looks at an experiment [s]."""
    return _POLL_SLURM_S if chosen_before(folder).executor == "slurm" else _POLL_S


def continue_experiment(
    folder: ExperimentFolder,
    where: Where | None = None,
    *,
    points: Sequence[str] = (),
    take_over: Sequence[str] = (),
) -> None:
    """Open failed and stopped points again, and have all open points worked on.

    Args:
        folder: The experiment.
        where: Where it is worked on [default: where it was before].
        points: Points that are trained again from the first step, finished ones too; their old runs stay.
        take_over: Owners of claims that do not exist any more: their points are opened.

    Raises:
        LockedError: Another process of this host works on the experiment.
        RunError: The process did not start, the cluster does not answer, a point does not exist, or an owner has
            claimed none.
    """
    host = socket.gethostname()
    holder = dispatcher_pid(folder.path, host)
    if holder is not None:
        raise LockedError(
            f"process {holder} of this host works on the experiment already",
            path=folder.path,
            remedy="watch it with patchcore experiments show, or stop it with patchcore experiments stop",
        )
    where = where or chosen_before(folder)
    folder.check_names(points)  # before anything is changed
    _check_dependants(folder, points)
    for owner in take_over:
        folder.take_over(owner)
    for point_id in points:
        folder.start_over(point_id)
    folder.stop_file.unlink(missing_ok=True)
    for log in (folder.path / "dispatchers").glob("*.attempts"):
        log.unlink(missing_ok=True)  # hosts on which everything failed get another chance
    release_lost(folder)
    for point_id, (place, entry) in folder.places().items():
        if place is Place.ENDED:
            run = folder.run_of(point_id, entry)
            # What has failed until now is forgiven.
            folder.reopen(point_id, place, forgiven=None if run is None else RunPaths(run).newest_attempt())
    remember(folder, where)
    if where.executor == "slurm":
        from patchcore.experiments.slurm import submit

        submit(folder, options=where.options, slots=where.slots, lead_s=where.lead_s)
        return
    module = "patchcore.experiments.ray" if where.executor == "ray" else "patchcore.experiments.local"
    options = (
        [] if where.slots is None and where.executor == "ray" else ["--slots", str(where.slots or max(1, len(gpus())))]
    )
    options += ["--address", where.address] if where.address else []
    start_dispatcher(folder.path, host, module=module, options=options)


def _check_dependants(folder: ExperimentFolder, points: Collection[str]) -> None:
    """Check that no point keeps weights that come from an earlier run of a point that is trained again.

    Raises:
        RunError: A point was trained from one of `points`, and is not trained again.
    """
    places = folder.places()
    for point_id, point in folder.points.items():
        if point.after in points and point_id not in points and places[point_id][0] is not Place.OPEN:
            more = " ".join(
                f"--point {other.point_id}"
                for other in folder.points.values()
                if other.after in points
                and other.point_id not in points
                and places[other.point_id][0] is not Place.OPEN
            )
            raise RunError(
                f"{point_id} was trained from {point.after}: it would keep the weights of the earlier training",
                path=folder.path,
                remedy=f"train it again, too: add {more}",
            )


def needed_bytes(protocol: Protocol, parameters: int, together: int) -> tuple[int, int]:
    """Return how much disk the runs of an experiment take at most, and how much each keeps when it has finished.

    Args:
        protocol: The experiment.
        parameters: Number of weights of the largest network.
        together: Number of trainings at the same time.
    """
    while_training = parameters * _BYTES_PER_WEIGHT
    kept = while_training if protocol.keep_checkpoints else parameters * 4
    count = len(protocol.points)
    return max(0, count - together) * kept + min(together, count) * max(kept, while_training), kept


def free_bytes(study: Path) -> int:
    """Return the free space of the disk of a study."""
    return shutil.disk_usage(study).free
