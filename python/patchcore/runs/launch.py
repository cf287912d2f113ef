"""Making a run, and starting an attempt of it: detached, or in the foreground for Slurm and containers."""

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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from patchcore.errors import LockedError, RunError
from patchcore.files import write_json_atomic
from patchcore.runs.control import author_name
from patchcore.runs.events import plain
from patchcore.runs.paths import DEFAULT_TRAINER, RUN_SCHEMA, RunPaths
from patchcore.runs.state import run_state
from patchcore.runs.supervisor import Supervisor
from patchcore.types import PathLike

__all__ = ["new_run", "start_attempt", "supervise_foreground"]

_READY_S: Final = 120.0  # Python itself can take a minute to load from a busy network file system


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
    trainer: str = DEFAULT_TRAINER,
) -> Path:
    """Make a run folder in a study; nothing is started.

    Args:
        study_path: The study.
        kind: ``train``, ``fine-tune``, ``evaluate`` …
        config: Resolved configuration.
        plan: The plan that the run follows.
        seed: The one seed.
        slug: A few words for the folder's name; anything but letters and digits becomes a dash.
        argv: The command that asked for it.
        parent: Id of the run that it continues from.
        fingerprint_hash: Of the fingerprint that the plan was made from.
        trainer: Module that is run as ``python -m trainer RUN ATTEMPT``.

    Returns:
        The run folder ``STUDY/runs/<utc>-<slug>-<6 hex>``.

    Raises:
        OSError: The study cannot be written.
    """
    now = time.time()
    stem = re.sub(r"[^a-z0-9]+", "-", slug.lower()).strip("-")[:40] or "run"
    name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now))}-{stem}-{secrets.token_hex(3)}"
    try:
        patchcore_version = version("patchcore")
    except PackageNotFoundError:
        patchcore_version = "unknown"
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
        "patchcore": patchcore_version,
    }
    runs = Path(study_path) / "runs"
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
    """Start the next attempt of a run under a supervisor of its own, which outlives this process.

    Args:
        run: The run folder.
        overrides: What this attempt changes of the run's configuration.
        env: Environment of supervisor and trainer; default: that of this process.

    Returns:
        The number of the attempt, once the supervisor holds its lock.

    Raises:
        LockedError: The run is driven already.
        RunError: This is no run folder, or the supervisor did not come up.
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
        said = _read_until_ready(pipe.fileno())
    if said is None:
        process.kill()
        process.wait()
        raise RunError(f"the supervisor did not come up within {_READY_S:.0f} s", path=paths.root)
    # It is our child as long as we live: someone has to take note of its end.
    threading.Thread(target=process.wait, name="patchcore-reaper", daemon=True).start()
    answer = _parse_ready(said)
    if answer.get("attempt") == attempt:
        return attempt
    if answer.get("locked"):
        raise LockedError(str(answer["error"]))
    if isinstance(answer.get("errno"), int):
        raise OSError(answer["errno"], str(answer["error"]))
    why = answer.get("error") or said.strip()[-2000:]
    raise RunError(f"the supervisor did not come up: {why}", path=paths.root)


def supervise_foreground(
    run: PathLike,
    *,
    overrides: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    on_tick: Callable[[], None] | None = None,
) -> int:
    """Supervise the next attempt of a run in this process, for Slurm and containers.

    SIGTERM and SIGINT go to the trainer, which stops at the next boundary with a checkpoint; a second SIGINT
    climbs to SIGKILL. A closed terminal counts as SIGTERM.

    Args:
        run: The run folder.
        overrides: What this attempt changes of the run's configuration.
        env: Environment of the trainer; default: that of this process.
        on_tick: Called about four times a second and once after the end, for output.

    Returns:
        The run's exit code: 0 finished, 75 stopped or paused, else 1.

    Raises:
        LockedError: The run is driven already.
        RunError: This is no run folder.
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
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    previous = [signal.signal(number, lambda received, _: notice(received)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


def _read_until_ready(pipe: int) -> str | None:
    """Read until the supervisor has said its line or has closed its output; None: neither came in time."""
    said = b""
    deadline = time.monotonic() + _READY_S
    while (left_s := deadline - time.monotonic()) > 0:
        if not select.select([pipe], [], [], left_s)[0]:
            break
        chunk = os.read(pipe, 65536)
        said += chunk
        if not chunk or _parse_ready(said.decode("utf-8", "replace")):
            return said.decode("utf-8", "replace")
    return None


def _parse_ready(said: str) -> dict[str, Any]:
    # Warnings of an interpreter start-up may come before the line.
    for line in reversed(said.splitlines(keepends=True)):
        if line.startswith("{") and line.endswith("\n"):
            try:
                answer = json.loads(line)
            except ValueError:
                continue
            return answer if isinstance(answer, dict) else {}
    return {}
