"""Lets the tasks of a cluster work on the shares of a command: ``analyze`` or ``prepare`` of a large cohort.

Each task runs the command with ``--share K/N``. What it has done is found by the command itself, which runs after all
tasks have ended and does what is missing. So the result is that of one machine, whatever happens to a task.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from patchcore.errors import ConfigError, MissingExtraError, RunError
from patchcore.experiments.executors import Where
from patchcore.experiments.ray import connect
from patchcore.experiments.slurm import array_job, call, tasks_left
from patchcore.shares import Share

__all__ = ["own_arguments", "share_out"]

_POLL_S: Final = 1.0
_MOST_POLL_S: Final = 15.0
_SILENT_S: Final = 600.0
_OPTIONS: Final = ("--executor", "--shares", "--sbatch", "--ray-address")


def own_arguments(argv: Sequence[str]) -> list[str]:
    """Return the arguments of a command without those that say where it is to run.

    Example:
        >>> own_arguments(["prepare", "study", "--executor", "slurm", "--shares=4", "--workers", "2"])
        ['prepare', 'study', '--workers', '2']
    """
    kept: list[str] = []
    rest = iter(argv)
    for word in rest:
        if word in _OPTIONS:
            next(rest, None)
        elif not word.startswith(tuple(f"{name}=" for name in _OPTIONS)):
            kept.append(word)
    return kept


def share_out(
    argv: Sequence[str], logs: Path, count: int, where: Where, on_progress: Callable[[int, int], None]
) -> list[Share]:
    """Run a command of patchcore once per share, on a cluster, and wait until all have ended.

    Ctrl-C removes the tasks. The cases that they have finished are kept.

    Args:
        argv: The arguments of the command, without those of :func:`own_arguments`.
        logs: Folder for the outputs of the tasks; all hosts must see it, as everything that the command names.
        count: Number of shares.
        where: The cluster: Slurm or Ray.
        on_progress: Called with the number of tasks that have ended, and of all, in the calling thread.

    Returns:
        The shares that were not completed, because their task failed or was lost. The command itself does their cases.

    Raises:
        ConfigError: `where` is this machine, or `count` is not positive.
        RunError: The cluster does not answer.
    """
    if where.executor == "local" or count < 1:
        raise ConfigError(
            "--shares is for a cluster: on one machine all cores are used anyway",
            remedy="give --executor slurm or ray, and at least one share",
        )
    logs.mkdir(parents=True, exist_ok=True)
    shares = [Share(number, count) for number in range(1, count + 1)]
    for share in shares:
        _done(logs, share).unlink(missing_ok=True)
    if where.executor == "slurm":
        _by_slurm(argv, logs, shares, where, on_progress)
    else:
        _by_ray(argv, logs, shares, where, on_progress)
    return [share for share in shares if not _done(logs, share).exists()]


def _done(logs: Path, share: Share) -> Path:
    return logs / f"{share.name}.done"


def _command(argv: Sequence[str], share: str) -> str:
    """Return a line of a shell that works on a share; 3 says that some cases could not be used, which is no failure."""
    return f"{shlex.join([sys.executable, '-P', '-m', 'patchcore', *argv])} --share {share} || [ $? -eq 3 ]"


def _by_slurm(
    argv: Sequence[str], logs: Path, shares: Sequence[Share], where: Where, on_progress: Callable[[int, int], None]
) -> None:
    number, count = "$SLURM_ARRAY_TASK_ID", len(shares)
    done = f"touch {shlex.quote(str(logs.resolve()))}/{number}-of-{count}.done"
    job = array_job(
        [
            f"--job-name=patchcore-{argv[0]}", f"--array=1-{count}" + (f"%{where.slots}" if where.slots else ""),
            "--requeue", "--open-mode=append", f"--chdir={Path.cwd()}",
            f"--output={logs.resolve()}/slurm-%A_%a.log", *where.options,
        ],
        f"#!/bin/bash\n{_command(argv, f'{number}/{count}')} && {done}\n",
    )  # fmt: skip
    answered, wait_s = time.monotonic(), _POLL_S
    try:
        while True:
            try:
                left = tasks_left(job)
                answered = time.monotonic()
            except RunError:  # a busy controller answers later; the tasks go on
                if time.monotonic() - answered > _SILENT_S:
                    raise
                left = count
            if not left:
                return
            on_progress(count - left, count)
            time.sleep(wait_s)
            wait_s = min(_MOST_POLL_S, 1.5 * wait_s)
    except (KeyboardInterrupt, SystemExit):
        call(["scancel", str(job)])
        raise


def _by_ray(
    argv: Sequence[str], logs: Path, shares: Sequence[Share], where: Where, on_progress: Callable[[int, int], None]
) -> None:
    try:
        import ray
    except ImportError:
        raise MissingExtraError("the Ray executor needs ray", remedy="pip install 'patchcore[ray]'") from None
    connect(ray, where.address)
    # A node works on as many shares at once as it has cores; each then uses one.
    env = {"OMP_NUM_THREADS": "1"} | {
        key: os.environ[key] for key in ("PYTHONPATH", "PATCHCORE_NO_LOCKS") if key in os.environ
    }
    task: Any = ray.remote(num_cpus=1, max_retries=3)(_work)
    folder = str(Path.cwd())
    calls = [
        task.remote(_command(argv, f"{share.number}/{share.count}"), folder, str(logs.resolve()), share.name, env)
        for share in shares
    ]
    try:
        waiting = calls
        while waiting:
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_POLL_S)
            on_progress(len(calls) - len(waiting), len(calls))
    except BaseException:
        for one in calls:
            ray.cancel(one, force=True)
        raise
    finally:
        ray.shutdown()


def _work(command: str, folder: str, logs: str, name: str, env: dict[str, str]) -> None:
    """Work on a share, in a process of Ray."""
    with Path(logs, f"{name}.log").open("ab") as log:
        ended = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=os.environ | env, stdout=log, stderr=subprocess.STDOUT, check=False
        )
    if ended.returncode == 0:
        Path(logs, f"{name}.done").touch()
