"""Makes the exit record of an attempt: the final state of an ended trainer, and the reason."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, Final

from patchcore.interrupts import STOP_SIGNALS
from patchcore.runs.paths import RunPaths, read_object
from patchcore.runs.records import RunState
from patchcore.runs.state import FINAL_WORDS, last_told_state
from patchcore.types import ExitCode

__all__ = ["exit_record", "failed_start", "last_lines"]

_CRASH_SIGNALS: Final = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE}


def exit_record(
    paths: RunPaths, attempt: int, returncode: int, *, asked_by: str | None, memory_ran_out: bool
) -> dict[str, Any]:
    """Make the exit record of an attempt.

    A trainer that was asked to stop by a signal while it still loaded has nothing to lose: the attempt is stopped.

    Args:
        paths: Paths of the run.
        attempt: Number of the attempt.
        returncode: Exit code, or the negative number of the signal that ended the trainer.
        asked_by: Who requested the end; None if nobody did.
        memory_ran_out: Whether the kernel has just killed a process because memory ran out.

    Returns:
        The content of ``exit.json``; its ``state`` is a final state.
    """
    last = last_told_state(paths, attempt)
    begun = last is not None or (read_object(paths.start(attempt)) or {}).get("trainer") is not None
    reported_state, reported_reason = last[:2] if last is not None and last[0] in FINAL_WORDS else (None, None)
    lines = last_lines(paths.stdout(attempt))
    number = -returncode if returncode < 0 else None
    state, reason = _outcome(returncode, number, reported_state, reported_reason, asked_by, memory_ran_out)
    if number in STOP_SIGNALS and not begun:
        state, reason = RunState.STOPPED, f"ended by {_signal_name(-returncode)} while the trainer was loading"
    if state is RunState.FAILED and reason is None:
        reason = next((line for line in reversed(lines) if line.strip()), f"exit code {returncode}")
    return {
        "schema_version": 1,
        "attempt": attempt,
        "state": state.value,
        "reason": reason,
        "code": returncode if number is None else None,
        "signal": None if number is None else _signal_name(number),
        "out_of_memory": state is RunState.OUT_OF_MEMORY,
        "asked_by": asked_by,
        "last_lines": lines,
        "ended": time.time(),
    }


def failed_start(attempt: int, error: OSError) -> dict[str, Any]:
    """Make the exit record of an attempt whose trainer did not start."""
    return {
        "schema_version": 1,
        "attempt": attempt,
        "state": RunState.FAILED.value,
        "reason": f"the trainer did not start: {error}",
        "code": None,
        "signal": None,
        "out_of_memory": False,
        "asked_by": None,
        "last_lines": [],
        "ended": time.time(),
    }


def _outcome(
    returncode: int,
    number: int | None,
    reported_state: RunState | None,
    reported_reason: str | None,
    asked_by: str | None,
    memory_ran_out: bool,
) -> tuple[RunState, str | None]:
    if number is not None:
        name = _signal_name(number)
        if reported_state is not None:  # the trainer had already ended its work; only the process exit failed
            return reported_state, f"{reported_reason or 'reported by the trainer'} (then ended by {name})"
        if number == signal.SIGKILL and asked_by is None and memory_ran_out:
            return RunState.OUT_OF_MEMORY, "the kernel killed the trainer because memory ran out"
        if asked_by is not None and number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            return RunState.KILLED, f"ended by {name} after {asked_by} requested a stop"
        if number in _CRASH_SIGNALS:
            return RunState.CRASHED, f"ended by {name}, a crash of the trainer itself"
        return RunState.KILLED, f"ended by {name}, which patchcore did not send"
    if returncode == ExitCode.DONE:
        return RunState.FINISHED, reported_reason
    if returncode == ExitCode.STOPPED:
        state = RunState.PAUSED if reported_state is RunState.PAUSED else RunState.STOPPED
        return state, reported_reason or (f"requested by {asked_by}" if asked_by else None)
    if reported_state is RunState.OUT_OF_MEMORY:
        return reported_state, reported_reason
    if memory_ran_out:
        return (
            RunState.OUT_OF_MEMORY,
            reported_reason or "the kernel killed one of its processes because memory ran out",
        )
    # The trainer is well, but another of its ranks was ended from outside.
    return (RunState.KILLED if reported_state is RunState.KILLED else RunState.FAILED), reported_reason


def _signal_name(number: int) -> str:
    """Return the name of a signal; real-time signals have names of their own only at both ends of their range."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def last_lines(path: Path, *, lines: int = 20, width: int = 400) -> list[str]:
    """Return the last lines of a log, each cut to `width` characters; an empty list if the log cannot be read."""
    try:
        with path.open("rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - lines * width * 2))
            text = handle.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.rpartition("\r")[2][:width] for line in text.splitlines()[-lines:]]
