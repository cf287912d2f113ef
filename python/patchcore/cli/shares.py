"""What ``analyze`` and ``prepare`` share: options for work on several hosts, one share of the cases each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from patchcore.errors import ConfigError

__all__ = ["OnExecutor", "ShareOption", "Shares", "on_cluster"]

ShareOption = Annotated[
    str | None,
    typer.Option(
        "--share", help="K/N: only every N-th case, from the K-th on, for several hosts; then run without it."
    ),
]
OnExecutor = Annotated[
    str | None, typer.Option("--executor", help="Share the cases among tasks of a cluster: slurm or ray.")
]
Shares = Annotated[int | None, typer.Option(min=1, help="Number of tasks [default: 8].")]


def on_cluster(
    study: Path,
    *,
    executor: str | None,
    shares: int | None,
    sbatch: list[str] | None,
    ray_address: str | None,
    share: str | None,
) -> None:
    """Let the tasks of a cluster do this command, if that was asked for; what they leave is done here afterwards.

    Raises:
        ConfigError: The options contradict each other.
        RunError: The cluster does not answer.
    """
    if executor is None:
        if shares or sbatch or ray_address:
            raise ConfigError("--shares, --sbatch and --ray-address need --executor", remedy="give --executor too")
        return
    if share is not None:
        raise ConfigError("--share and --executor cannot be used together", remedy="give only one of them")
    from patchcore.cli.progress import counted
    from patchcore.experiments.executors import Where
    from patchcore.experiments.shares import own_arguments, share_out

    where = Where(executor, options=tuple(sbatch or ()), address=ray_address)  # type: ignore[arg-type]  # it checks
    argv = own_arguments(sys.argv[1:])
    logs = study / ".shares" / argv[0]
    with counted("Tasks") as show:
        lost = share_out(argv, logs, shares or 8, where, show)
    if lost:
        names = ", ".join(f"{one.number}/{one.count}" for one in lost)
        typer.echo(f"tasks that did not end well: {names}; their cases are done here; outputs: {logs}", err=True)
