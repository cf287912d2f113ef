"""Reads the memory limits of this process's control groups: of a container, of a Slurm job, of a systemd service.

Both versions of control groups are read, and every parent group, because the limit of a job belongs to one of them.
What a group uses includes the page cache; the kernel frees the inactive part of it before it refuses memory.

Source:
    The Linux kernel's admin guide, "Control Group v2" and "Memory Resource Controller" (v1); proc(5), mountinfo.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["MemoryGroup", "memory_groups", "read_counter"]

# v1 writes the largest multiple of a page for "no limit".
_NO_LIMIT = 1 << 60
_V1_NAMES = ("memory.limit_in_bytes", "memory.usage_in_bytes")


@dataclass(frozen=True)
class MemoryGroup:
    """A control group that counts memory.

    Attributes:
        folder: Folder of the group in the mounted hierarchy.
        version: 1 or 2.
    """

    folder: Path
    version: int

    def free_bytes(self) -> int | None:
        """Return how much memory the group may still take; None without a limit, or if the kernel does not say."""
        names = ("memory.max", "memory.current") if self.version == 2 else _V1_NAMES
        limit, used = (_number(self.folder / name) for name in names)
        if limit is None or used is None or limit >= _NO_LIMIT:
            return None
        cache = self._counter("memory.stat", "inactive_file" if self.version == 2 else "total_inactive_file")
        return max(0, limit - max(0, used - (cache or 0)))

    def oom_kills(self) -> int | None:
        """Return how often the kernel killed a process of this group because memory ran out; None if unknown."""
        return self._counter("memory.events" if self.version == 2 else "memory.oom_control", "oom_kill")

    def _counter(self, file: str, name: str) -> int | None:
        return read_counter(self.folder / file, name)


def read_counter(path: Path, name: str) -> int | None:
    """Return a count from a file of lines ``name count``; None if the file or the name is missing."""
    with suppress(OSError, ValueError):
        found = re.search(rf"^{name} (\d+)$", path.read_text(), re.MULTILINE)
        return int(found[1]) if found else None
    return None


def memory_groups(root: Path = Path("/")) -> list[MemoryGroup]:
    """Return the control groups of this process that count memory, from its own group to the outermost one.

    Args:
        root: Folder that contains ``proc`` and ``sys``.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, own = rest.partition(":")
        if "memory" in controllers.split(","):
            version = 1
        elif not controllers:
            version = 2
        else:
            continue
        place = _mounted(mounts, version, own)
        if place is not None:
            mount, inside = place
            # The folders of a group and of its parents, up to the mount point.
            groups = [inside, *inside.parents]
            found += [MemoryGroup(root / mount.relative_to("/") / group, version) for group in groups]
    return found


def _mounted(mounts: list[str], version: int, own: str) -> tuple[PurePosixPath, PurePosixPath] | None:
    """Return the mount point of a hierarchy, and the path of a group in it."""
    for line in mounts:
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or not kind or kind[0] != ("cgroup2" if version == 2 else "cgroup"):
            continue
        if version == 1 and "memory" not in kind[-1].split(","):
            continue
        # In a container without a namespace of its own, the group is named from the host's root, but only a part of
        # the hierarchy is mounted; outside of that part, the mount point itself is the nearest group.
        mount, shown, group = PurePosixPath(fields[4]), PurePosixPath(fields[3]), PurePosixPath(own)
        inside = group.relative_to(shown) if group.is_relative_to(shown) else PurePosixPath()
        return mount, PurePosixPath() if ".." in inside.parts else inside
    return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
