"""Start a training as a user would: by the command, in processes that outlive the dashboard."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from patchcore.errors import RunError

__all__ = ["launch_training"]


def launch_training(
    study: Path,
    settings: Sequence[str] = (),
    *,
    slug: str | None = None,
    command: Sequence[str] = (sys.executable, "-m", "patchcore"),
    timeout_s: float = 90.0,
) -> str:
    """Start ``patchcore train STUDY --detach`` and wait until the run is on its way. Call it from a thread.

    Args:
        study: The study folder.
        settings: ``section.key=value`` strings.
        slug: A name for the run.
        command: How patchcore is called.
        timeout_s: Seconds after which the command is given up; a run that it has started by then goes on.

    Returns:
        The id of the run.

    Raises:
        RunError: The command refused, failed or took too long; the message holds what it said.
    """
    arguments = [*command, "train", str(study), "--detach"]
    if slug:
        arguments += ["--name", slug]
    for setting in settings:
        arguments += ["--set", setting]
    # Files, not pipes: a supervisor that inherited a pipe would hold it open after the command has ended.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True
        )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
            raise RunError(
                f"patchcore train did not answer within {timeout_s:g} s",
                remedy="look for the run in the list",
            ) from None
        said = _tail(output.fileno())
        complaint = _tail(errors.fileno())
    if code != 0:
        raise RunError(complaint or said or f"patchcore train ended with exit code {code} and no message")
    lines = said.splitlines()
    if not lines:
        raise RunError("patchcore train named no run", remedy="look for the run in the list")
    return Path(lines[-1].strip()).name


def _tail(descriptor: int, size: int = 16_384) -> str:
    """Return the end of what was written to a file."""
    length = os.fstat(descriptor).st_size
    raw = os.pread(descriptor, size, max(0, length - size))
    return raw.decode("utf-8", "replace").strip()
