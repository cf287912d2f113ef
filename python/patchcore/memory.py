"""Measures used and available memory, and limits how much memory parallel work uses."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patchcore.control_groups import memory_groups
from patchcore.errors import ConfigError, DataError

__all__ = ["MemoryBudget", "anonymous_bytes", "available_bytes", "byte_count"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def byte_count(text: str, option: str) -> int:
    """Return the bytes of a size such as ``1GiB``, ``800MB``, ``2g``, or a number of bytes.

    Raises:
        ConfigError: The text is not a size. The message names `option`.

    Example:
        >>> byte_count("1GiB", "--max-memory"), byte_count("800MB", "--max-memory")
        (1073741824, 800000000)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text.lower())
    size = 0 if match is None else int(float(match[1]) * _UNITS[match[2] or ""])
    if size <= 0:
        raise ConfigError(f"{option} {text!r} is not a size", remedy=f"write e.g. {option} 4GiB or {option} 800MB")
    return size


def anonymous_bytes() -> int:
    """Return the memory of this process that is not backed by a file, in bytes; 0 if the system does not report it."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def available_bytes() -> int:
    """Return the available memory in bytes: of the machine or, if smaller, of a control group (a container, Slurm)."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    available = 1024 * int(found[1]) if found else 4 << 30
    limits = [group.free_bytes() for group in memory_groups()]
    return min([available, *(limit for limit in limits if limit is not None)])


class MemoryBudget:
    """Memory shared by several threads. Each thread waits until enough memory is free, in the order of arrival.

    Args:
        total: Total memory, bytes.
        in_use: Memory that this process uses already, bytes; named in the error.

    Example:
        >>> budget = MemoryBudget(100)
        >>> with budget.hold(60, "a case"):
        ...     budget.free
        40
    """

    def __init__(self, total: int, *, in_use: int = 0) -> None:
        self.total = total
        self._in_use = in_use
        self.free = total
        self._changed = threading.Condition()
        self._queue: list[object] = []
        self._closed = False

    def close(self) -> None:
        """Refuse further requests. Every waiting thread gets an InterruptedError."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @contextmanager
    def hold(self, needed: int, what: str, *, remedy: str = "allow more memory") -> Iterator[None]:
        """Wait for `needed` bytes, and hold them within the block.

        Raises:
            DataError: `needed` is more than the total.
            InterruptedError: The budget was closed while this thread waited.
        """
        if needed > self.total:
            allowed = f"{self.total / 2**20:,.0f} MiB are allowed"
            if self._in_use:
                allowed += f" besides the {self._in_use / 2**20:,.0f} MiB that this process already uses"
            raise DataError(
                f"{what} needs about {needed / 2**20:,.0f} MiB, but only {allowed}",
                found=needed,
                expected=self.total,
                remedy=remedy,
            )
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                ready = self._changed.wait_for
                ready(lambda: self._closed or (self._queue[0] is ticket and self.free >= needed))
                if self._closed:
                    raise InterruptedError("the work was cancelled while this thread waited for memory")
                self.free -= needed
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self.free += needed
                self._changed.notify_all()
