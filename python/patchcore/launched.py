"""Which rank of one training a launcher has started this process as: torchrun, srun, Ray Train, or anything like them.

A launcher starts one process per rank, on one or several hosts. Torchrun and Ray Train say so in ``RANK``,
``WORLD_SIZE``, ``LOCAL_RANK``, ``LOCAL_WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``; srun in variables of its own.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from patchcore.errors import ConfigError

__all__ = ["Launched", "launched"]

_FIRST_PORT: Final = 20_000
_PORTS: Final = 20_000


@dataclass(frozen=True)
class Launched:
    """One of the processes that a launcher has started for one training.

    Attributes:
        rank: Number of the process, from 0.
        world: Number of processes.
        local_rank: Number of the process on its host.
        local_world: Number of processes on this host.
        address: Host name or IP address of rank 0, as the other hosts reach it.
        port: TCP port at this address.
        served: Whether the launcher serves a store of torch at the port (torchrun); else rank 0 does.
        by: Name of the launcher, for messages.
        threads: CPU threads that the launcher gives to this process; None if it does not say.
    """

    rank: int
    world: int
    local_rank: int
    local_world: int
    address: str
    port: int
    served: bool = False
    by: str = "the launcher"
    threads: int | None = None


def launched(env: Mapping[str, str] | None = None) -> Launched | None:
    """Return the place of this process among those of a launcher; None if it was started alone.

    Args:
        env: Environment variables; default: those of this process.

    Raises:
        ConfigError: A variable is missing or is not a number.

    Example:
        >>> launched({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.5", "MASTER_PORT": "29500"}).rank
        1
        >>> launched({"WORLD_SIZE": "1", "RANK": "0"}) is None
        True
    """
    env = os.environ if env is None else env
    if "RANK" in env and _number(env, "WORLD_SIZE", 1) > 1:
        return _by_torchrun(env)
    if env.get("SLURM_STEP_ID", "").isdecimal() and _number(env, "SLURM_STEP_NUM_TASKS", 1) > 1:
        return _by_srun(env)
    return None


def _by_torchrun(env: Mapping[str, str]) -> Launched:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not env.get(name):
            raise ConfigError(
                f"RANK and WORLD_SIZE are set, but {name} is not",
                remedy=f"set {name}, or unset RANK and WORLD_SIZE to train in one process",
            )
    if _number(env, "TORCHELASTIC_RESTART_COUNT", 0):
        raise ConfigError(
            "torchrun has started its processes again, which its hosts do not count alike",
            remedy="start it with --max-restarts=0, and continue the run with patchcore runs resume RUN",
        )
    rank, world = _number(env, "RANK"), _number(env, "WORLD_SIZE")
    if not 0 <= rank < world:
        raise ConfigError(f"RANK is {rank} of WORLD_SIZE {world}", expected=f"0 to {world - 1}", remedy="correct RANK")
    return Launched(
        rank,
        world,
        local_rank=_number(env, "LOCAL_RANK", 0),
        local_world=_number(env, "LOCAL_WORLD_SIZE", 1),
        address=env["MASTER_ADDR"],
        port=_number(env, "MASTER_PORT"),
        served=env.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        by="torchrun" if "TORCHELASTIC_RUN_ID" in env else "the launcher",
    )


def _by_srun(env: Mapping[str, str]) -> Launched:
    hosts = _number(env, "SLURM_STEP_NUM_NODES", 1)
    # Steps of one job may run at the same time.
    job = _number(env, "SLURM_JOB_ID", 0) + 997 * _number(env, "SLURM_STEP_ID", 0)
    return Launched(
        _number(env, "SLURM_PROCID"),
        _number(env, "SLURM_STEP_NUM_TASKS"),
        local_rank=_number(env, "SLURM_LOCALID", 0),
        local_world=_own_tasks(env),
        address=env.get("MASTER_ADDR") or ("127.0.0.1" if hosts == 1 else _first_host(env)),
        port=_number(env, "MASTER_PORT", _FIRST_PORT + job % _PORTS),
        by="srun",
        threads=_number(env, "SLURM_CPUS_PER_TASK", 0) or None,
    )


def _own_tasks(env: Mapping[str, str]) -> int:
    """Return the number of tasks on this host: ``2(x3),1`` means 2 on each of the first three hosts, and 1."""
    counts: list[int] = []
    for part in env.get("SLURM_STEP_TASKS_PER_NODE", "1").split(","):
        count, _, times = part.rstrip(")").partition("(x")
        counts += [int(count)] * int(times or 1)
    return counts[min(_number(env, "SLURM_NODEID", 0), len(counts) - 1)]


def _first_host(env: Mapping[str, str]) -> str:
    hosts = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", "")
    try:
        shown = subprocess.run(
            ["scontrol", "show", "hostnames", hosts], capture_output=True, text=True, check=True, timeout=60
        )
        return shown.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise ConfigError(
            f"the first host of {hosts!r} is unknown ({error})",
            remedy="set MASTER_ADDR to the address of the host of task 0",
        ) from None


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = env.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise ConfigError(f"{name} is {text!r}", expected="a number", remedy=f"set {name}")
    return int(text)
