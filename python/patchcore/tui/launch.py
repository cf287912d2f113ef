"""Start a training from the dashboard with ``patchcore train``, in processes that outlive the dashboard."""

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
    command: Sequence[str] = (sys.executable, "-P", "-m", "patchcore"),
    timeout_s: float = 90.0,
) -> str:
    """Run ``patchcore train STUDY --detach`` and wait until the command has started the run. Call it from a thread.

    Args:
        study: The study folder.
        settings: ``section.key=value`` strings.
        slug: Name of the run.
        command: The command that calls patchcore.
        timeout_s: Seconds to wait for the command before it is killed. A run that it has already started continues.

    Returns:
        The id of the run.

    Raises:
        RunError: The command failed or took too long. The message contains the output of the command.
    """
    arguments = [*command, "train", str(study), "--detach"]
    if slug:
        arguments += ["--name", slug]
    for setting in settings:
        arguments += ["--set", setting]
    # Files instead of pipes: the supervisor would inherit a pipe and keep it open after the command has ended.
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
                remedy="check whether the run is in the list",
            ) from None
        said = _tail(output.fileno())
        complaint = _tail(errors.fileno())
    if code != 0:
        raise RunError(complaint or said or f"patchcore train ended with exit code {code} and without a message")
    lines = said.splitlines()
    if not lines:
        raise RunError("patchcore train did not print a run", remedy="check whether the run is in the list")
    return Path(lines[-1].strip()).name


def _tail(descriptor: int, size: int = 16_384) -> str:
    """Return the last `size` bytes of a file as text."""
    length = os.fstat(descriptor).st_size
    raw = os.pread(descriptor, size, max(0, length - size))
    return raw.decode("utf-8", "replace").strip()
