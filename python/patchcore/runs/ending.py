"""What an ended trainer is called, and the exit record that says so."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, Final

from patchcore.runs.paths import RunPaths
from patchcore.runs.records import RunState
from patchcore.runs.state import FINAL_WORDS, last_told_state
from patchcore.types import ExitCode

__all__ = ["exit_record", "last_lines"]

_OWN_DOING: Final = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE}


def exit_record(
    paths: RunPaths, attempt: int, returncode: int, *, asked_by: str | None, memory_ran_out: bool
) -> dict[str, Any]:
    """Make the exit record of an attempt.

    Args:
        paths: The run.
        attempt: The attempt.
        returncode: Exit code, or the negative number of the signal that ended the trainer.
        asked_by: Who asked for the end; None: nobody.
        memory_ran_out: Whether the kernel has just killed for want of memory.

    Returns:
        What ``exit.json`` holds; its ``state`` is final.
    """
    told = last_told_state(paths, attempt)
    told_state, told_reason = told[:2] if told is not None and told[0] in FINAL_WORDS else (None, None)
    lines = last_lines(paths.stdout(attempt))
    number = signal.Signals(-returncode) if returncode < 0 else None
    state, reason = _outcome(returncode, number, told_state, told_reason, asked_by, memory_ran_out)
    if state is RunState.FAILED and reason is None:
        reason = next((line for line in reversed(lines) if line.strip()), f"exit code {returncode}")
    return {
        "schema_version": 1,
        "attempt": attempt,
        "state": state.value,
        "reason": reason,
        "code": returncode if number is None else None,
        "signal": None if number is None else number.name,
        "out_of_memory": state is RunState.OUT_OF_MEMORY,
        "asked_by": asked_by,
        "last_lines": lines,
        "ended": time.time(),
    }


def _outcome(
    returncode: int,
    number: signal.Signals | None,
    told_state: RunState | None,
    told_reason: str | None,
    asked_by: str | None,
    memory_ran_out: bool,
) -> tuple[RunState, str | None]:
    if number is not None:
        if told_state is not None:  # the work was done; only the way out failed
            return told_state, f"{told_reason or 'told by the trainer'} (then ended by {number.name})"
        if number is signal.SIGKILL and asked_by is None and memory_ran_out:
            return RunState.OUT_OF_MEMORY, "the kernel killed the trainer because memory ran out"
        if asked_by is not None and number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            return RunState.KILLED, f"ended by {number.name} after {asked_by} asked for a stop"
        if number in _OWN_DOING:
            return RunState.CRASHED, f"ended by {number.name}, its own fault"
        return RunState.KILLED, f"ended by {number.name}, which patchcore did not send"
    if returncode == ExitCode.DONE:
        return RunState.FINISHED, told_reason
    if returncode == ExitCode.STOPPED:
        state = RunState.PAUSED if told_state is RunState.PAUSED else RunState.STOPPED
        return state, told_reason or (f"asked by {asked_by}" if asked_by else None)
    if told_state is RunState.OUT_OF_MEMORY:
        return told_state, told_reason
    if memory_ran_out:
        return RunState.OUT_OF_MEMORY, told_reason or "the kernel killed a process of it: memory ran out"
    return RunState.FAILED, told_reason


def last_lines(path: Path, *, lines: int = 20, width: int = 400) -> list[str]:
    """Return the last lines of a log, cut to `width` characters; empty where there is none."""
    try:
        with path.open("rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - lines * width * 2))
            text = handle.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.rpartition("\r")[2][:width] for line in text.splitlines()[-lines:]]
