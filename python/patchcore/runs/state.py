"""Determines the state of a run from its exit record, else from its locks (same host), else from its heartbeat.

On the host of the run, locks are reliable: whoever holds a lock is alive, and its pid is known. On other hosts, in
other containers, and while the file system does not answer, only the heartbeat number is available. The reader measures
by its own clock when this number last changed; time stamps of two machines are never compared.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from patchcore.errors import NoLocksError
from patchcore.locks import lock_holder
from patchcore.processes import boot_id, machine_id, pid_namespace
from patchcore.runs.events import EventKind, decode_event
from patchcore.runs.inbox import waiting_requests
from patchcore.runs.paths import HEARTBEAT_S, RunPaths, read_object
from patchcore.runs.records import RunState, StateReport, Verb
from patchcore.runs.values import as_number, as_text
from patchcore.types import PathLike

__all__ = ["FINAL_WORDS", "STALL_S", "StateWatcher", "last_told_state", "run_state"]

STALL_S: Final = 180.0
_MISSED_BEATS: Final = 3
_EPOCH_SHARE: Final = 1.5
_TAIL_BYTES: Final = 65536

FINAL_WORDS: Final = frozenset(
    {
        RunState.FINISHED,
        RunState.STOPPED,
        RunState.PAUSED,
        RunState.FAILED,
        RunState.OUT_OF_MEMORY,
        RunState.KILLED,  # one of several ranks was
    }
)
_REPORTED_LIVE: Final = frozenset({RunState.STARTING, RunState.RUNNING, RunState.PAUSING, RunState.STOPPING})


@dataclass(frozen=True, slots=True)
class _Beat:
    attempt: Any
    seq: Any
    seen: float


def run_state(run: PathLike) -> StateReport:
    """Determine the state of a run once.

    If the run is on another host, one call cannot detect that its heartbeat has stopped: it returns the last reported
    state. Use a :class:`StateWatcher` to follow a run.

    Args:
        run: The run folder.

    Returns:
        The state, its reason, and the processes that work on the run.

    Raises:
        RunError: The folder is not a run folder.
    """
    return StateWatcher(run).look()


class StateWatcher:
    """Follows the state of one run. It remembers when the heartbeat last changed, by the clock of this process.

    Args:
        run: The run folder.
        clock: Returns monotonic seconds.
    """

    def __init__(self, run: PathLike, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.paths = RunPaths(run)
        self._clock = clock
        self._beat: _Beat | None = None
        self._boot_id = boot_id()

    def look(self) -> StateReport:
        """Determine the state now.

        Raises:
            RunError: The folder is not a run folder.
        """
        attempt = self.paths.newest_attempt()
        if attempt is None:
            self.paths.require()
            return StateReport(RunState.QUEUED)
        # The order matters. A trainer takes its lock before it enters its pid in start.json, so read start.json first.
        # A process may end after its lock was checked, so read the exit record last.
        start = read_object(self.paths.start(attempt)) or {}
        try:
            supervisor, trainer = lock_holder(self.paths.supervisor_lock), lock_holder(self.paths.trainer_lock)
            known = True
        except (OSError, NoLocksError):  # a network file system that does not answer now
            supervisor = trainer = None
            known = False
        status = read_object(self.paths.status) or {}
        if status.get("attempt") != attempt:
            status = {}
        exit_record = read_object(self.paths.exit(attempt))
        if exit_record is not None:
            return _ended(attempt, start, exit_record)
        if not start or (bool(self._boot_id) and start.get("boot_id") == self._boot_id):
            # Another container on this machine may have other locks: there, a free lock proves nothing.
            free = supervisor is None and trainer is None
            if known and not (free and start.get("pid_namespace") not in (None, pid_namespace())):
                return self._look_here(attempt, start, status, supervisor, trainer)
        elif _restarted(start):
            return self._look_here(attempt, start, status, None, None, gone="its machine was restarted")
        return self._look_elsewhere(attempt, start, status)

    def _look_here(
        self,
        attempt: int,
        start: dict[str, Any],
        status: dict[str, Any],
        supervisor: int | None,
        trainer: int | None,
        gone: str = "neither supervisor nor trainer is running",
    ) -> StateReport:
        def report(state: RunState, reason: str | None = None, since: float | None = None) -> StateReport:
            return StateReport(state, reason, attempt, since, as_text(start.get("host")), trainer, supervisor)

        reported, reported_reason, since = _reported(status)
        if trainer is not None:
            silent_s = self._silence(status)
            if supervisor is None:
                return report(RunState.ORPHANED, "its supervisor is gone; the trainer continues", since)
            stalled = _stalled(status, silent_s)
            if stalled is not None:
                return report(RunState.STALLED, stalled, since)
            ending = self._ending(reported)
            if ending is not None:
                return report(ending[0], ending[1] or reported_reason, since)
            return report(reported if reported in _REPORTED_LIVE else RunState.STOPPING, reported_reason, since)
        if supervisor is not None:
            if start.get("trainer") is None:
                return report(RunState.STARTING, "the trainer is loading")
            return report(RunState.STOPPING, "the trainer has ended; its exit record is being written", since)
        last = last_told_state(self.paths, attempt)
        if last is not None and last[0] in FINAL_WORDS:
            words = "reported by the trainer; its supervisor was gone"
            return report(last[0], f"{last[1]} ({words})" if last[1] else words, last[2])
        if start.get("trainer") is None:
            return report(RunState.CRASHED, f"{gone}; the trainer never started")
        return report(RunState.CRASHED, f"{gone}; there is no exit record", since)

    def _look_elsewhere(self, attempt: int, start: dict[str, Any], status: dict[str, Any]) -> StateReport:
        host = as_text(start.get("host"))
        reported, reported_reason, since = _reported(status)

        def report(state: RunState, reason: str | None) -> StateReport:
            return StateReport(state, reason, attempt, since, host)

        if reported in FINAL_WORDS:
            return report(reported, reported_reason)
        silent_s = self._silence(status)
        epoch_s = as_number(status.get("epoch_s")) or 0.0
        if silent_s > max(STALL_S, _EPOCH_SHARE * epoch_s):
            return report(RunState.PRESUMED_CRASHED, f"no heartbeat from {host} for {silent_s:.0f} s")
        if silent_s > _MISSED_BEATS * HEARTBEAT_S:
            return report(RunState.STALE, f"no heartbeat from {host} for {silent_s:.0f} s")
        stalled = _stalled(status, 0.0)
        if stalled is not None:
            return report(RunState.STALLED, stalled)
        ending = self._ending(reported)
        if ending is not None:
            return report(ending[0], ending[1] or reported_reason)
        return report(reported if reported in _REPORTED_LIVE else RunState.STARTING, reported_reason)

    def _silence(self, status: dict[str, Any]) -> float:
        """Return the seconds since the heartbeat last changed.

        Within one boot, all processes share the monotonic clock, and the heartbeat says when it was written. Elsewhere,
        the first call sees a new heartbeat and returns 0.
        """
        now = self._clock()
        attempt, seq = status.get("attempt"), status.get("hb_seq")
        if self._beat is None or (self._beat.attempt, self._beat.seq) != (attempt, seq):
            written = as_number(status.get("mono")) if status.get("boot_id") == self._boot_id != "" else None
            age_s = 0.0 if written is None else max(0.0, time.monotonic() - written)
            self._beat = _Beat(attempt, seq, now - age_s)
        return now - self._beat.seen

    def _ending(self, reported: RunState | None) -> tuple[RunState, str | None] | None:
        """Return a stop or pause in progress: reported by the trainer, or requested and not yet answered."""
        if reported in (RunState.STOPPING, RunState.PAUSING):
            return reported, None
        for request in waiting_requests(self.paths):
            if request.verb is Verb.STOP:
                return RunState.STOPPING, f"requested by {request.author}"
            if request.verb is Verb.PAUSE:
                return RunState.PAUSING, f"requested by {request.author}"
        return None


def last_told_state(paths: RunPaths, attempt: int) -> tuple[RunState, str | None, float] | None:
    """Return the last state that the trainer of an attempt reported, with its reason and time."""
    try:
        with paths.events(attempt).open("rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - _TAIL_BYTES))
            lines = handle.read(_TAIL_BYTES).split(b"\n")
    except OSError:
        return None
    for line in reversed(lines[:-1]):
        if b'"state"' not in line:
            continue
        try:
            event = decode_event(line)
            if event.kind == EventKind.STATE:
                reason = event.data.get("reason")
                return (
                    RunState(str(event.data.get("state"))),
                    None if reason is None else str(reason),
                    event.t,
                )
        except ValueError:
            continue
    return None


def _restarted(start: dict[str, Any]) -> bool:
    """Whether an attempt was started by another boot of this machine: its processes are gone."""
    machine, boots = start.get("machine"), (start.get("boot_id"), boot_id())
    same = bool(machine) and machine == machine_id() and as_text(start.get("host")) == socket.gethostname()
    return same and all(boots) and boots[0] != boots[1]


def _ended(attempt: int, start: dict[str, Any], record: dict[str, Any]) -> StateReport:
    try:
        state = RunState(str(record.get("state")))
    except ValueError:
        state = RunState.FAILED
    reason, code = record.get("reason"), record.get("code")
    return StateReport(
        state,
        None if reason is None else str(reason),
        attempt,
        as_number(record.get("ended")),
        as_text(start.get("host")),
        exit_code=code if isinstance(code, int) else None,
    )


def _reported(status: dict[str, Any]) -> tuple[RunState | None, str | None, float | None]:
    try:
        state = RunState(str(status.get("state")))
    except ValueError:
        state = None
    reason = status.get("reason")
    return state, None if reason is None else str(reason), as_number(status.get("since"))


def _stalled(status: dict[str, Any], silent_s: float) -> str | None:
    idle_s = (as_number(status.get("idle_s")) or 0.0) + silent_s
    limit_s = max(STALL_S, _EPOCH_SHARE * (as_number(status.get("epoch_s")) or 0.0))
    if silent_s > limit_s:
        return f"the trainer process exists but its heartbeat has not changed for {silent_s:.0f} s"
    return f"no step and no sign of progress for {idle_s:.0f} s" if idle_s > limit_s else None
