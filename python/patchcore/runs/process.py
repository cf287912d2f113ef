"""Sends signals to processes that are still the same, and counts out-of-memory kills, using Linux ``/proc``."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from patchcore.control_groups import memory_groups, read_counter
from patchcore.processes import process_start

__all__ = ["oom_kill_counts", "send_signal", "tell"]


def tell(message: str) -> None:
    """Print a message on stderr. Never raises: stderr may be a closed pipe, or a file on a full disk."""
    with suppress(OSError):
        os.write(2, f"patchcore: {message}\n".encode("utf-8", "backslashreplace"))


def send_signal(pid: int, started: int, number: int, *, group: bool = False) -> bool:
    """Send a signal to a process, but only if it is still the same process.

    Args:
        pid: Id of the process.
        started: Start time of the process, from :func:`process_start`.
        number: The signal.
        group: Send the signal to the whole process group if the process leads one.

    Returns:
        Whether the signal was sent.
    """
    if pid <= 1 or process_start(pid) != started:
        return False
    with suppress(ProcessLookupError, PermissionError):
        if group and os.getpgid(pid) == pid:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
        return True
    return False


def oom_kill_counts() -> dict[str, int]:
    """Return how often the kernel killed a process because memory ran out.

    Returns:
        Counts of the cgroup of this process (key ``cgroup``) and of the whole machine (key ``machine``). A key is
        missing if the kernel does not provide its count.
    """
    counts = {}
    for group in memory_groups():
        count = group.oom_kills()
        if count is not None:
            counts["cgroup"] = count
            break
    machine = read_counter(Path("/proc/vmstat"), "oom_kill")
    if machine is not None:
        counts["machine"] = machine
    return counts
