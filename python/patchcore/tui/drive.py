"""Pause, stop or resume a run. Each function blocks for a moment: call it from a thread."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ask", "resume"]


def ask(run: Path, verb: str, *, timeout_s: float = 8.0) -> str:
    """Send a request to a run and return the outcome as a sentence.

    Args:
        run: The run folder.
        verb: ``stop`` or ``pause``.
        timeout_s: How long to wait for the answer.

    Raises:
        RunError: No process of the run can answer, or the request was refused.
        OSError: The request file cannot be written.
    """
    from patchcore.errors import RunError
    from patchcore.runs import request, wait_for

    answer = wait_for(run, request(run, verb), timeout_s=timeout_s)
    if answer is None:
        return f"{verb} was requested; the run handles it at its next step or window"
    if not answer.ok:
        raise RunError(f"{verb} was {answer.outcome}" + (f": {answer.detail}" if answer.detail else ""))
    return f"{verb} was accepted" + (f": {answer.detail}" if answer.detail else "")


def resume(run: Path) -> str:
    """Start a new attempt of a run and return the outcome as a sentence.

    Raises:
        PatchcoreError: The run is live, finished, or damaged.
        OSError: The run folder cannot be written.
    """
    from patchcore.runs import start_attempt

    return f"attempt {start_attempt(run)} was started"
