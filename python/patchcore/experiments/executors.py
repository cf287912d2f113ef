"""Chooses where an experiment is worked on: this machine, a Slurm cluster or a Ray cluster. It remembers the choice."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from patchcore.errors import ConfigError, PatchcoreError, RunError
from patchcore.experiments.folder import ExperimentFolder, dispatcher_lock
from patchcore.experiments.local import dispatcher_pid
from patchcore.files import write_json_atomic
from patchcore.locks import lock_holder
from patchcore.runs.paths import read_object

__all__ = ["ExecutorName", "Where", "chosen_before", "is_worked_on", "release_lost", "remember", "stop"]

ExecutorName = Literal["local", "slurm", "ray"]


@dataclass(frozen=True)
class Where:
    """Where and how an experiment is worked on.

    Attributes:
        executor: ``local``, ``slurm`` or ``ray``.
        slots: Number of trainings side by side [default: one, or one per GPU; Slurm: no limit].
        options: Options for sbatch.
        lead_s: With Slurm: so long before the time limit a task is asked to stop [s].
        address: Address of the Ray cluster [default: the one of this machine, or a new one].
    """

    executor: ExecutorName = "local"
    slots: int | None = None
    options: tuple[str, ...] = ()
    lead_s: int = 120
    address: str | None = None

    def __post_init__(self) -> None:
        if self.executor not in get_args(ExecutorName):
            raise ConfigError(f"--executor {self.executor}", expected=" or ".join(get_args(ExecutorName)))
        if self.slots is not None and self.slots < 1:
            raise ConfigError(f"--slots {self.slots}", expected="1 or more")
        if self.options and self.executor != "slurm":
            raise ConfigError("--sbatch needs --executor slurm")
        if self.address and self.executor != "ray":
            raise ConfigError("--ray-address needs --executor ray")
        if self.lead_s < 1:
            raise ConfigError(f"--lead {self.lead_s}", expected="1 or more seconds")


def chosen_before(folder: ExperimentFolder) -> Where:
    """Return where the experiment was worked on last; this machine if it is not known."""
    record = read_object(folder.path / "dispatchers" / "executor.json") or {}
    try:
        return Where(**(record | {"options": tuple(record.get("options", ()))}))
    except (TypeError, ConfigError):
        return Where()


def remember(folder: ExperimentFolder, where: Where) -> None:
    """Write down where the experiment is worked on."""
    write_json_atomic(folder.path / "dispatchers" / "executor.json", json.loads(json.dumps(asdict(where))))


def release_lost(folder: ExperimentFolder) -> None:
    """Open the points whose owners are gone for certain: Ray's workers without a lock, and tasks out of the queue."""
    owners = folder.owners()
    for owner, points in owners.items():
        if owner.startswith("ray-") and lock_holder(dispatcher_lock(folder.path, owner)) is None:
            for point_id in points:
                folder.give_up_claim(owner, point_id)
    if any(owner.startswith("slurm-") for owner in owners):
        from patchcore.experiments.slurm import release_lost_tasks

        with suppress(RunError):  # this machine may not see the cluster
            release_lost_tasks(folder)


def is_worked_on(folder: ExperimentFolder) -> bool:
    """Return whether somebody works on the experiment: a process of this host, or tasks in the queue.

    A cluster that does not answer counts as working: it may.
    """
    if dispatcher_pid(folder.path, socket.gethostname()) is not None:
        return True
    if chosen_before(folder).executor != "slurm":
        return False
    from patchcore.experiments.slurm import queued_points

    try:
        return bool(queued_points(folder))
    except PatchcoreError:
        return True


def stop(folder: ExperimentFolder) -> None:
    """Ask everybody who works on the experiment to stop with a checkpoint.

    Raises:
        RunError: Slurm does not answer. Running tasks stop all the same.
    """
    folder.stop_file.touch()
    if chosen_before(folder).executor == "slurm":
        from patchcore.experiments.slurm import cancel_waiting

        cancel_waiting(folder)
