"""The Slurm executor: array jobs with one task per point.

    python -m patchcore.experiments.slurm EXPERIMENT

is what a task runs: it trains its own point, and evaluates it. Slurm requeues a task after a preemption or a lost node.
It does not at the time limit: some time before, the task gets SIGUSR1, stops with a checkpoint, and requeues itself.
What is in the queue comes from ``squeue``, everything else from the experiment and its run folders; without accounting,
``sacct`` knows nothing.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from patchcore.errors import PatchcoreError, RunError
from patchcore.experiments.folder import ExperimentFolder, Place
from patchcore.experiments.worker import Outcome, Worker, bad_hosts
from patchcore.interrupts import StopSignal
from patchcore.study import Study
from patchcore.types import ExitCode

__all__ = [
    "LEAD_S",
    "array_job",
    "call",
    "cancel_waiting",
    "queued_points",
    "release_lost_tasks",
    "submit",
    "tasks_left",
]

LEAD_S: Final = 120
"""So long before the time limit a task is asked to stop [s]."""

_OVER = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
}


def submit(
    folder: ExperimentFolder, *, options: Sequence[str] = (), slots: int | None = None, lead_s: int = LEAD_S
) -> list[int]:
    """Submit all open points that are not in the queue, and take back what lost tasks have claimed.

    Args:
        folder: The experiment.
        options: Options for sbatch, such as ``--partition=gpu``.
        slots: Number of tasks that may run at the same time [default: as many as Slurm allows].
        lead_s: So long before the time limit a task is asked to stop [s].

    Returns:
        The ids of the submitted array jobs.

    Raises:
        RunError: Slurm does not answer, or refuses the job. Points that were not submitted stay open.
        OSError: The folder cannot be written.
    """
    queued = release_lost_tasks(folder)
    names = [*folder.points]
    waiting = [name for name, (place, _) in folder.places().items() if place is Place.OPEN and name not in queued]
    # The points that need none come first, then those of each source after it.
    groups: dict[str | None, list[str]] = {}
    for name in sorted(waiting, key=lambda name: folder.points[name].after is not None):
        needs = folder.points[name].after
        groups.setdefault(needs if needs is not None and not folder.is_ready(folder.points[name]) else None, []).append(
            name
        )
    jobs: list[int] = []
    tasks = dict(queued)
    for needs, members in groups.items():
        if needs is not None and needs not in tasks:
            continue  # its source has ended, or somebody else works on it
        numbers = sorted(names.index(name) for name in members)
        array = ",".join(map(str, numbers)) + (f"%{slots}" if slots else "")
        job = array_job(
            [
                f"--job-name={_job_name(folder)}", f"--comment={_mark(folder)}", f"--array={array}", "--requeue",
                "--open-mode=append", f"--signal=B:USR1@{lead_s}", f"--chdir={folder.study}",
                f"--output={folder.path.resolve()}/dispatchers/slurm-%A_%a.log",
                *([f"--dependency=afterany:{tasks[needs]}"] if needs is not None else []),
                *options,
            ],
            _script(folder),
        )  # fmt: skip
        jobs.append(job)
        tasks |= {names[number]: f"{job}_{number}" for number in numbers}
    return jobs


def array_job(options: Sequence[str], script: str) -> int:
    """Submit a script as a job and return its number.

    Raises:
        RunError: Slurm does not answer, or refuses the job.
    """
    answer = call(["sbatch", "--parsable", *options], script=script)
    # A site may print a greeting before it.
    number = re.search(r"(\d+)(;\S+)?\s*\Z", answer)
    if number is None:
        raise RunError(f"sbatch did not say the number of the job: {answer.strip()}")
    return int(number[1])


def tasks_left(job: int) -> int:
    """Return how many tasks of an array job are in the queue, waiting or running.

    Raises:
        RunError: Slurm does not answer.
    """
    left = 0
    try:
        jobs = json.loads(call(["squeue", "--json", f"--jobs={job}"]))["jobs"]
    except RunError as error:
        if "Invalid job id" in str(error):  # over for some minutes, so that Slurm has forgotten it
            return 0
        raise
    for one in jobs:
        if not _states(one) & _OVER:
            waiting = _number(one.get("array_task_id")) is None
            left += max(1, len(_numbers(str(one.get("array_task_string", ""))))) if waiting else 1
    return left


def release_lost_tasks(folder: ExperimentFolder) -> dict[str, str]:
    """Open the points of tasks of this cluster that are in the queue no longer; return those that are.

    Raises:
        RunError: Slurm does not answer.
    """
    queued = queued_points(folder)
    for owner, points in folder.owners().items():
        for point_id in points:
            if owner.startswith(f"slurm-{_cluster()}-") and point_id not in queued:
                folder.give_up_claim(owner, point_id)
    return queued


def queued_points(folder: ExperimentFolder) -> dict[str, str]:
    """Return the points that are in the queue, waiting or running, and their task ids.

    Raises:
        RunError: Slurm does not answer.
    """
    names = [*folder.points]
    found = {}
    mark = _mark(folder)
    for job in json.loads(call(["squeue", "--json", f"--name={_job_name(folder)}"]))["jobs"]:
        number = _number(job.get("array_job_id"))
        if number is None or job.get("comment") != mark or _states(job) & _OVER:
            continue
        task = _number(job.get("array_task_id"))
        for at in [task] if task is not None else _numbers(str(job.get("array_task_string", ""))):
            if at < len(names):
                found[names[at]] = f"{number}_{at}"
    return found


def cancel_waiting(folder: ExperimentFolder) -> None:
    """Remove the tasks that have not started from the queue. Running ones look for a request to stop.

    Raises:
        RunError: Slurm does not answer.
    """
    tasks = sorted(set(queued_points(folder).values()))
    if tasks:
        call(["scancel", "--state=PENDING", *tasks])


def _number(value: Any) -> int | None:
    """Return a number of squeue's JSON: plain up to Slurm 22.05, ``{"set", "number"}`` later."""
    if isinstance(value, dict):
        value = value.get("number") if value.get("set") else None
    return value if isinstance(value, int) else None


def _numbers(text: str) -> list[int]:
    """Return the numbers of waiting tasks: ``0,2-4%2``."""
    found: list[int] = []
    for part in text.partition("%")[0].strip("[]").split(","):
        low, _, high = part.partition("-")
        if low.isdigit():
            found += range(int(low), int(high if high.isdigit() else low) + 1)
    return found


def _states(job: dict[str, Any]) -> set[str]:
    state = job.get("job_state")
    return set(state) if isinstance(state, list) else {str(state)}


def _job_name(folder: ExperimentFolder) -> str:
    return f"patchcore-{folder.protocol.name}"


def _mark(folder: ExperimentFolder) -> str:
    """Return the comment of the experiment's jobs: it makes them known in the queue, whoever has submitted them."""
    return f"patchcore {Study(folder.study).study_id} {folder.protocol.name}"


@cache
def _cluster() -> str:
    if name := os.environ.get("SLURM_CLUSTER_NAME"):
        return name
    for line in call(["scontrol", "show", "config"]).splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "ClusterName":
            return value.strip()
    raise RunError("Slurm does not say the name of its cluster", remedy="set SLURM_CLUSTER_NAME")


def _script(folder: ExperimentFolder) -> str:
    command = shlex.join([sys.executable, "-P", "-m", "patchcore.experiments.slurm", str(folder.path.resolve())])
    return f"#!/bin/bash\nexec {command}\n"


def call(command: Sequence[str], script: str | None = None) -> str:
    """Run a command of Slurm and return its output.

    Raises:
        RunError: It is not installed, does not answer, or fails.
    """
    try:
        done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=120, check=False)
    except FileNotFoundError:
        raise RunError(f"{command[0]} was not found", remedy="run this on a machine that can submit to Slurm") from None
    except subprocess.TimeoutExpired:
        raise RunError(
            f"{command[0]} did not answer within 2 minutes", remedy="try again when the cluster answers"
        ) from None
    if done.returncode:
        raise RunError(f"{command[0]}: {done.stderr.strip() or done.returncode}", remedy="see the options for sbatch")
    return done.stdout


def main(argv: list[str] | None = None) -> int:
    """Run a task of an array: train and evaluate the point with its number."""
    [experiment] = sys.argv[1:] if argv is None else argv
    job, number = os.environ["SLURM_ARRAY_JOB_ID"], int(os.environ["SLURM_ARRAY_TASK_ID"])
    task = f"{job}_{number}"
    at_limit: list[int] = []

    def before_limit(received: int, _frame: object) -> None:
        at_limit.append(received)
        os.kill(os.getpid(), signal.SIGTERM)

    stop = StopSignal()
    signal.signal(signal.SIGUSR1, before_limit)
    try:
        folder = ExperimentFolder(experiment, f"slurm-{_cluster()}-{task}")
        point_id = [*folder.points][number]
        outcome = Worker(folder, stop).work_on(point_id)
    except (PatchcoreError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return int(ExitCode.ERROR)
    if outcome is Outcome.BAD_HOST:
        call(["scontrol", "update", f"JobId={task}", f"ExcNodeList={','.join(bad_hosts(folder))}"])
    if outcome is Outcome.BAD_HOST or (outcome is Outcome.INTERRUPTED and at_limit and not folder.stop_file.exists()):
        print(f"{point_id}: requeued as {task} on {socket.gethostname()}", flush=True)
        call(["scontrol", "requeue", task])
    if outcome is Outcome.TAKEN:
        print(f"{point_id}: somebody else works on it, or the point that it needs is not finished", flush=True)
    return int({Outcome.DONE: ExitCode.DONE, Outcome.INTERRUPTED: ExitCode.STOPPED}.get(outcome, ExitCode.ERROR))


if __name__ == "__main__":
    sys.exit(main())
