"""Who a process is (a pid alone is reused), and how often memory ran out: Linux ``/proc``."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["boot_id", "oom_kill_counts", "process_start", "send_signal"]


def boot_id() -> str:
    """Identity of this boot of this machine; empty where the kernel does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def process_start(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None where there is none, or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The second field is the program's name in parentheses and may hold anything, a parenthesis included.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def send_signal(pid: int, started: int, number: int, *, group: bool = False) -> bool:
    """Signal a process, or the group that it leads, only if it is still the one that started then.

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
    """How often the kernel killed for want of memory: in this process's cgroup, and on the whole machine.

    Returns:
        ``cgroup`` and ``machine`` → count; a key is missing where the kernel does not tell.
    """
    counts = {}
    for file in _cgroup_files():
        count = _counter(file, "oom_kill")
        if count is not None:
            counts["cgroup"] = count
            break
    machine = _counter(Path("/proc/vmstat"), "oom_kill")
    if machine is not None:
        counts["machine"] = machine
    return counts


def _cgroup_files() -> list[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    files = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            files.append(Path("/sys/fs/cgroup") / group.lstrip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            files.append(Path("/sys/fs/cgroup/memory") / group.lstrip("/") / "memory.oom_control")
    return files


def _counter(file: Path, name: str) -> int | None:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return None
