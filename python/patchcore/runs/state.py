"""The state of a run, known from its exit record, else lock holders on this host, else heartbeat.

Locks tell the truth on the host of the run: a holder lives, and its pid is named. Elsewhere only the
heartbeat's number is left, watched by the reader's own clock; time stamps of two machines are never compared.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from patchcore.locks import lock_holder
from patchcore.runs.events import EventKind, decode_event
from patchcore.runs.inbox import waiting_requests
from patchcore.runs.paths import HEARTBEAT_S, RunPaths, read_object
from patchcore.runs.process import boot_id
from patchcore.runs.records import RunState, StateReport, Verb
from patchcore.types import PathLike

__all__ = ["FINAL_WORDS", "STALL_S", "StateWatcher", "last_told_state", "run_state"]

STALL_S: Final = 180.0
_MISSED_BEATS: Final = 3
_EPOCH_SHARE: Final = 1.5
_TAIL_BYTES: Final = 65536

FINAL_WORDS: Final = frozenset(
    {RunState.FINISHED, RunState.STOPPED, RunState.PAUSED, RunState.FAILED, RunState.OUT_OF_MEMORY}
)
_TOLD_LIVE: Final = frozenset({RunState.STARTING, RunState.RUNNING, RunState.PAUSING, RunState.STOPPING})


@dataclass(frozen=True, slots=True)
class _Beat:
    attempt: Any
    seq: Any
    seen: float


def run_state(run: PathLike) -> StateReport:
    """Determine the state of a run by one look.

    One look cannot tell whether a heartbeat on another host still beats: it takes the last word of it. Use a
    :class:`StateWatcher` to follow a run.

    Args:
        run: The run folder.

    Returns:
        The state, how it is known and who works on the run.

    Raises:
        RunError: This is no run folder.
    """
    return StateWatcher(run).look()


class StateWatcher:
    """Follows the state of one run, remembering when its heartbeat last changed by the clock of this process.

    Args:
        run: The run folder.
        clock: Monotonic seconds.
    """

    def __init__(self, run: PathLike, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.paths = RunPaths(run)
        self._clock = clock
        self._beat: _Beat | None = None
        self._boot_id = boot_id()

    def look(self) -> StateReport:
        """Determine the state now.

        Raises:
            RunError: This is no run folder.
        """
        attempt = self.paths.newest_attempt()
        if attempt is None:
            self.paths.require()
            return StateReport(RunState.QUEUED)
        # In this order nobody is missed: a trainer named in start.json has taken its lock before, and whoever
        # lets go of a lock after we looked leaves an exit record that is read later.
        start = read_object(self.paths.start(attempt)) or {}
        supervisor = lock_holder(self.paths.supervisor_lock)
        trainer = lock_holder(self.paths.trainer_lock)
        status = read_object(self.paths.status) or {}
        if status.get("attempt") != attempt:
            status = {}
        exit_record = read_object(self.paths.exit(attempt))
        if exit_record is not None:
            return _ended(attempt, start, exit_record)
        here = not start or (bool(self._boot_id) and start.get("boot_id") == self._boot_id)
        if here:
            return self._look_here(attempt, start, status, supervisor, trainer)
        return self._look_elsewhere(attempt, start, status)

    def _look_here(
        self,
        attempt: int,
        start: dict[str, Any],
        status: dict[str, Any],
        supervisor: int | None,
        trainer: int | None,
    ) -> StateReport:
        def report(state: RunState, reason: str | None = None, since: float | None = None) -> StateReport:
            return StateReport(state, reason, attempt, since, start.get("host"), trainer, supervisor)

        told, told_reason, since = _told(status)
        if trainer is not None:
            silent_s = self._silence(status)
            if supervisor is None:
                return report(RunState.ORPHANED, "its supervisor is gone; it goes on training", since)
            stalled = _stalled(status, silent_s)
            if stalled is not None:
                return report(RunState.STALLED, stalled, since)
            going = self._going(told)
            if going is not None:
                return report(going[0], going[1] or told_reason, since)
            return report(told if told in _TOLD_LIVE else RunState.STOPPING, told_reason, since)
        if supervisor is not None:
            if start.get("trainer") is None:
                return report(RunState.STARTING, "the trainer is loading")
            return report(RunState.STOPPING, "the trainer has ended, its exit record is being written", since)
        last = last_told_state(self.paths, attempt)
        if last is not None and last[0] in FINAL_WORDS:
            words = "told by the trainer; its supervisor was gone"
            return report(last[0], f"{last[1]} ({words})" if last[1] else words, last[2])
        if start.get("trainer") is None:
            return report(RunState.CRASHED, "neither supervisor nor trainer lives; the trainer never came up")
        return report(RunState.CRASHED, "neither supervisor nor trainer lives, no exit record", since)

    def _look_elsewhere(self, attempt: int, start: dict[str, Any], status: dict[str, Any]) -> StateReport:
        host = start.get("host")
        told, told_reason, since = _told(status)

        def report(state: RunState, reason: str | None) -> StateReport:
            return StateReport(state, reason, attempt, since, host)

        if told in FINAL_WORDS:
            return report(told, told_reason)
        silent_s = self._silence(status)
        epoch_s = _number(status.get("epoch_s")) or 0.0
        if silent_s > max(STALL_S, _EPOCH_SHARE * epoch_s):
            return report(RunState.PRESUMED_CRASHED, f"no heartbeat from {host} for {silent_s:.0f} s")
        if silent_s > _MISSED_BEATS * HEARTBEAT_S:
            return report(RunState.STALE, f"no heartbeat from {host} for {silent_s:.0f} s")
        stalled = _stalled(status, 0.0)
        if stalled is not None:
            return report(RunState.STALLED, stalled)
        going = self._going(told)
        if going is not None:
            return report(going[0], going[1] or told_reason)
        return report(told if told in _TOLD_LIVE else RunState.STARTING, told_reason)

    def _silence(self, status: dict[str, Any]) -> float:
        """Seconds by this process's clock since the heartbeat last changed; 0 at the first look."""
        now = self._clock()
        attempt, seq = status.get("attempt"), status.get("hb_seq")
        if self._beat is None or (self._beat.attempt, self._beat.seq) != (attempt, seq):
            self._beat = _Beat(attempt, seq, now)
        return now - self._beat.seen

    def _going(self, told: RunState | None) -> tuple[RunState, str | None] | None:
        """A stop or pause on its way, told by the trainer or still waiting for it."""
        if told in (RunState.STOPPING, RunState.PAUSING):
            return told, None
        for request in waiting_requests(self.paths):
            if request.verb is Verb.STOP:
                return RunState.STOPPING, f"asked by {request.author}"
            if request.verb is Verb.PAUSE:
                return RunState.PAUSING, f"asked by {request.author}"
        return None


def last_told_state(paths: RunPaths, attempt: int) -> tuple[RunState, str | None, float] | None:
    """Return the last state that the trainer of an attempt told, with its reason and time."""
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
        _number(record.get("ended")),
        start.get("host"),
        exit_code=code if isinstance(code, int) else None,
    )


def _told(status: dict[str, Any]) -> tuple[RunState | None, str | None, float | None]:
    try:
        state = RunState(str(status.get("state")))
    except ValueError:
        state = None
    reason = status.get("reason")
    return state, None if reason is None else str(reason), _number(status.get("since"))


def _stalled(status: dict[str, Any], silent_s: float) -> str | None:
    idle_s = (_number(status.get("idle_s")) or 0.0) + silent_s
    limit_s = max(STALL_S, _EPOCH_SHARE * (_number(status.get("epoch_s")) or 0.0))
    if silent_s > limit_s:
        return f"the trainer lives but shows no sign of it for {silent_s:.0f} s"
    return f"no step and no sign of progress for {idle_s:.0f} s" if idle_s > limit_s else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
