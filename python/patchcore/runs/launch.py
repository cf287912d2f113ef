"""Creates runs and starts their attempts: detached, or in the foreground for Slurm and containers."""

from __future__ import annotations

import json
import os
import re
import secrets
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from patchcore.errors import LockedError, RunError
from patchcore.files import write_json_atomic
from patchcore.interrupts import heeded_signals
from patchcore.locks import check_locks
from patchcore.runs.control import author_name
from patchcore.runs.events import plain
from patchcore.runs.paths import DEFAULT_TRAINER, RUN_SCHEMA, RunPaths
from patchcore.runs.state import run_state
from patchcore.runs.supervisor import Supervisor
from patchcore.types import PathLike
from patchcore.version import package_version

__all__ = ["new_run", "start_attempt", "supervise_foreground"]

_READY_S: Final = 120.0  # on a busy network file system, Python itself can take a minute to start


def new_run(
    study_path: PathLike,
    *,
    kind: str,
    config: Mapping[str, Any],
    plan: Mapping[str, Any],
    seed: int,
    slug: str,
    argv: Sequence[str],
    parent: str | None = None,
    fingerprint_hash: str | None = None,
    experiment: Mapping[str, Any] | None = None,
    trainer: str = DEFAULT_TRAINER,
) -> Path:
    """Create a run folder in a study. No process is started.

    Args:
        study_path: The study folder.
        kind: ``train``, ``fine-tune``, ``evaluate`` …
        config: Resolved configuration.
        plan: The plan of the run.
        seed: Random seed.
        slug: A few words for the folder name. Each group of characters other than letters and digits becomes a dash.
        argv: The command line that created the run.
        parent: Id of the run that this run continues from.
        fingerprint_hash: Hash of the fingerprint that the plan was made from.
        experiment: Name of the experiment that the run belongs to, and id of its point; None: none.
        trainer: Trainer module, started as ``python -m trainer RUN ATTEMPT``.

    Returns:
        The run folder ``STUDY/runs/<utc>-<slug>-<6 hex>``.

    Raises:
        OSError: The study folder cannot be written.
    """
    now = time.time()
    stem = re.sub(r"[^a-z0-9]+", "-", slug.lower()).strip("-")[:40] or "run"
    name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now))}-{stem}-{secrets.token_hex(3)}"
    record = {
        "schema_version": RUN_SCHEMA,
        "run_id": name,
        "kind": kind,
        "parent": parent,
        "trainer": trainer,
        "config": plain(config),
        "plan": plain(plan),
        "fingerprint_hash": fingerprint_hash,
        "seed": seed,
        "argv": list(argv),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
        "user": author_name(),
        "patchcore": package_version(),
    }
    if experiment is not None:
        record["experiment"] = plain(experiment)
    runs = Path(study_path) / "runs"
    check_locks(runs)
    runs.mkdir(parents=True, exist_ok=True)
    unfinished = runs / f".{name}.tmp"
    try:
        unfinished.mkdir()
        paths = RunPaths(unfinished)
        inboxes = (paths.requests_new, paths.requests_done)
        for folder in (paths.attempts, paths.cases, paths.checkpoints, *inboxes):
            folder.mkdir(parents=True)
        write_json_atomic(paths.run_json, record)
        paths.run_json.chmod(0o444)
        unfinished.replace(runs / name)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return runs / name


def start_attempt(
    run: PathLike, *, overrides: Mapping[str, Any] | None = None, env: Mapping[str, str] | None = None
) -> int:
    """Start the next attempt of a run under its own supervisor, a process that continues after this process ends.

    Returns when the supervisor holds the lock of the run.

    Args:
        run: The run folder.
        overrides: Changes of the run's configuration for this attempt.
        env: Environment of supervisor and trainer; default: the environment of this process.

    Returns:
        The number of the attempt.

    Raises:
        LockedError: Another process already supervises or trains the run.
        RunError: The folder is not a run folder, or the supervisor did not start.
        OSError: The folder cannot be written.
    """
    paths = RunPaths(run)
    paths.require()
    attempt = (paths.newest_attempt() or 0) + 1
    command = [sys.executable, "-P", "-m", "patchcore.runs.supervisor"]
    command += [str(paths.root.resolve()), str(attempt)]
    if overrides:
        command += ["--overrides", json.dumps(plain(overrides))]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=None if env is None else dict(env),
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout as pipe:
        output = _read_until_ready(pipe.fileno())
    if output is None:
        process.kill()
        process.wait()
        raise RunError(f"the supervisor did not start within {_READY_S:.0f} s", path=paths.root)
    # The supervisor is a child of this process: wait for it, so that it does not become a zombie.
    threading.Thread(target=process.wait, name="patchcore-reaper", daemon=True).start()
    answer = _parse_ready(output)
    if answer.get("attempt") == attempt:
        return attempt
    if answer.get("locked"):
        raise LockedError(str(answer["error"]))
    if isinstance(answer.get("errno"), int):
        raise OSError(answer["errno"], str(answer["error"]))
    why = answer.get("error") or output.strip()[-2000:]
    raise RunError(f"the supervisor did not start: {why}", path=paths.root)


def supervise_foreground(
    run: PathLike,
    *,
    overrides: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    on_tick: Callable[[], None] | None = None,
) -> int:
    """Supervise the next attempt of a run in this process, for Slurm and containers.

    SIGTERM and SIGINT are forwarded to the trainer, which writes a checkpoint and stops at the next boundary. A second
    SIGINT forces the end, if necessary with SIGKILL. If the terminal is closed, the trainer receives SIGTERM.

    Args:
        run: The run folder.
        overrides: Changes of the run's configuration for this attempt.
        env: Environment of the trainer; default: the environment of this process.
        on_tick: Called about four times per second and once after the end, for output.

    Returns:
        The run's exit code: 0 finished, 75 stopped or paused, else 1.

    Raises:
        LockedError: Another process already supervises or trains the run.
        RunError: The folder is not a run folder.
        OSError: The folder cannot be written.
    """
    paths = RunPaths(run)
    paths.require()
    attempt = (paths.newest_attempt() or 0) + 1
    supervisor = Supervisor(run, attempt, overrides=overrides, env=env, on_tick=on_tick)
    supervisor.take()
    with _handling(supervisor.notice):
        supervisor.supervise()
    return run_state(run).run_exit_code


@contextmanager
def _handling(notice: Callable[[int], None]) -> Iterator[None]:
    numbers = heeded_signals()
    previous = [signal.signal(number, lambda received, _: notice(received)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


def _read_until_ready(pipe: int) -> str | None:
    """Read the supervisor's output until its status line, or until its end. Return None if neither comes in time."""
    output = b""
    deadline = time.monotonic() + _READY_S
    while (left_s := deadline - time.monotonic()) > 0:
        if not select.select([pipe], [], [], left_s)[0]:
            break
        chunk = os.read(pipe, 65536)
        output += chunk
        if not chunk or _parse_ready(output.decode("utf-8", "replace")):
            return output.decode("utf-8", "replace")
    return None


def _parse_ready(output: str) -> dict[str, Any]:
    # Warnings of the Python interpreter may come before the status line.
    for line in reversed(output.splitlines(keepends=True)):
        if line.startswith("{") and line.endswith("\n"):
            try:
                answer = json.loads(line)
            except ValueError:
                continue
            return answer if isinstance(answer, dict) else {}
    return {}
