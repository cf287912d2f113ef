"""Sends requests to a running trainer: small files in ``control/new``, answered in ``control/done``.

A request is handled exactly once and expires. If no trainer is running, the supervisor refuses it. Clocks of two
machines are never compared: if a request was written on another machine, only its duration until expiry is used.
"""

from __future__ import annotations

import getpass
import os
import secrets
import signal
import socket
import time
from collections.abc import Mapping
from typing import Any, Final

from patchcore.errors import RunError
from patchcore.files import write_json_atomic
from patchcore.locks import lock_holder
from patchcore.processes import boot_id, process_start
from patchcore.runs.climb import FORCED_KILL_GRACE_S
from patchcore.runs.events import plain
from patchcore.runs.inbox import read_answer
from patchcore.runs.paths import RunPaths, read_object
from patchcore.runs.process import send_signal
from patchcore.runs.records import Acknowledgement, Verb
from patchcore.runs.state import run_state
from patchcore.types import PathLike

__all__ = ["author_name", "request", "terminate_orphan", "wait_for"]

_POLL_S: Final = 0.05


def author_name() -> str:
    """Return the author of a request: ``user@host``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # the user id has no passwd entry, as in containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def request(
    run: PathLike,
    verb: Verb | str,
    args: Mapping[str, Any] | None = None,
    *,
    expires_s: float = 600.0,
    author: str | None = None,
) -> str:
    """Send a request to a running trainer and return at once. :func:`wait_for` returns the answer.

    Args:
        run: The run folder.
        verb: ``checkpoint``, ``validate``, ``pause`` or ``stop``.
        args: For ``stop`` and ``pause``: ``grace_s``: seconds until SIGTERM; ``kill_grace_s``: seconds from SIGTERM to
            SIGKILL; ``force``: send SIGTERM at once.
        expires_s: Seconds after which the request expires.
        author: Who sends the request; default: this user and host.

    Returns:
        The id of the request.

    Raises:
        RunError: The folder is not a run folder, or no process is running that could answer.
        ValueError: `verb` is not one of the verbs above.
        OSError: The request cannot be written.
    """
    verb = Verb(verb)
    paths = RunPaths(run)
    paths.require()
    report = run_state(run)
    if not report.state.is_live:
        remedy = "start it with patchcore runs resume" if report.state.is_over else "start it first"
        raise RunError(f"cannot {verb}: the run is {report.label}", path=paths.root, remedy=remedy)
    now = time.time()
    identity = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now))}-{secrets.token_hex(4)}"
    record = {
        "id": identity,
        "verb": verb.value,
        "args": plain(args or {}),
        "author": author or author_name(),
        "t": now,
        "expires": now + expires_s,
        "mono": time.monotonic(),
        "boot_id": boot_id(),
    }
    paths.requests_new.mkdir(parents=True, exist_ok=True)
    write_json_atomic(paths.requests_new / f"{identity}.json", record)
    return identity


def wait_for(run: PathLike, identity: str, *, timeout_s: float = 10.0) -> Acknowledgement | None:
    """Wait until a request is answered.

    Returns:
        The answer, or None if no answer came in time.
    """
    paths = RunPaths(run)
    deadline = time.monotonic() + timeout_s
    while True:
        answer = read_answer(paths, identity)
        if answer is not None or time.monotonic() >= deadline:
            return answer
        time.sleep(_POLL_S)


def terminate_orphan(run: PathLike, *, kill_grace_s: float = FORCED_KILL_GRACE_S) -> bool:
    """End a trainer without a supervisor: send SIGTERM, then SIGKILL to its process group.

    If a supervisor is running, request a stop with :func:`request` instead.

    Args:
        run: The run folder. This function must run on the host of the trainer.
        kill_grace_s: Seconds between SIGTERM and SIGKILL.

    Returns:
        Whether the trainer was ended. Also False if there is no such trainer, or if the process id cannot be proved to
        belong to it.
    """
    paths = RunPaths(run)
    attempt = paths.newest_attempt()
    pid = lock_holder(paths.trainer_lock)
    if attempt is None or not pid or lock_holder(paths.supervisor_lock) is not None:
        return False
    start = read_object(paths.start(attempt)) or {}
    named = start.get("trainer")
    if start.get("boot_id") != boot_id() or not isinstance(named, dict) or named.get("pid") != pid:
        return False
    started = named.get("started")
    if not isinstance(started, int) or not send_signal(pid, started, signal.SIGTERM):
        return False
    deadline = time.monotonic() + kill_grace_s
    while time.monotonic() < deadline and process_start(pid) == started:
        time.sleep(_POLL_S)
    if process_start(pid) == started:
        send_signal(pid, started, signal.SIGKILL, group=True)
        time.sleep(4 * _POLL_S)
    return process_start(pid) != started
