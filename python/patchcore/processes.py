"""Identifies processes: a process id can be reused, so its start time belongs to it. Uses Linux ``/proc``."""

from __future__ import annotations

from pathlib import Path

__all__ = ["boot_id", "machine_id", "pid_namespace", "process_start"]


def boot_id() -> str:
    """Return the id of the current boot of this machine; empty if the kernel does not provide it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def machine_id() -> str:
    """Return the id of this installation of Linux, which a restart does not change; empty if it has none."""
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return ""


def pid_namespace() -> str:
    """Return a text that is equal for processes that know each other by the same ids; containers differ."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def process_start(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if it does not exist or is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The second field is the program name in parentheses. The name may itself contain parentheses.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
