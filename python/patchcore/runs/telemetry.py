"""Writes lines to files in the background: a bounded queue and one writer thread.

The training loop never waits for the disk and never fails because of a full disk. While writing fails, less important
lines are dropped and counted; important lines stay in the queue. When writing works again, an alert reports the gap.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["LineFile", "Telemetry"]

_RETRY_S: Final = 1.0


class LineFile:
    """A text file with one writer. Each line is written by one ``os.write``.

    If a line was written only in part, the next one still starts on a new line.

    Args:
        path: The file; created if it is missing.
        fresh: Whether to empty the file first.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self.path = path
        self._handle = self._open(os.O_TRUNC if fresh else 0)
        self._torn = not fresh and _ends_torn(path)

    def _open(self, extra: int = 0) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | extra, 0o644)

    def write(self, line: bytes) -> None:
        """Write one line, newline included.

        Raises:
            OSError: The line could not be written, or only a part of it. The next line then starts on a new line.
        """
        if self._torn:
            os.write(self._handle, b"\n")
            self._torn = False
        written = os.write(self._handle, line)
        if written < len(line):
            self._torn = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def reopen(self) -> None:
        """Open the file again: after an outage of a network file system, the old handle may be invalid."""
        handle = self._open()
        os.close(self._handle)
        self._handle = handle

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


@dataclass(slots=True)
class _Item:
    file: str
    encode: Callable[[], bytes]
    keep: bool


class Telemetry:
    """The queue and its writer thread.

    Args:
        files: Name → file that is already open. The queue closes these files at its end.
        open_file: Opens the file for any other name. Only one such file is open at a time.
        on_recovery: Called in the thread when writing works again, with the duration of the failure in seconds and the
            number of lines dropped in this time. Lines that it puts into the queue are written like all others.
        capacity: Maximum number of waiting lines; lines that must be kept may exceed it.
    """

    def __init__(
        self,
        files: Mapping[str, LineFile],
        open_file: Callable[[str], LineFile],
        *,
        on_recovery: Callable[[float, int], None],
        capacity: int = 8192,
    ) -> None:
        self._open_file = open_file
        self._on_recovery = on_recovery
        self._capacity = capacity
        self._items: deque[_Item] = deque()
        self._wake = threading.Condition()
        self._busy = False
        self._closing = False
        self._give_up = False
        self._files = dict(files)
        self._lasting = frozenset(files)
        self._failing_since: float | None = None
        self._dropped_while_failing = 0
        self.dropped = 0
        self.last_error: str | None = None
        self._thread = threading.Thread(target=self._run, name="patchcore-telemetry", daemon=True)
        self._thread.start()

    def put(self, file: str, encode: Callable[[], bytes], *, keep: bool) -> bool:
        """Put a line into the queue and return at once.

        Args:
            file: Name of the file: a key of `files`, or a name for `open_file`.
            encode: Returns the line. Called in the thread, in the order of the queue.
            keep: Whether the line must not be dropped.

        Returns:
            Whether the line was queued; False if it was dropped.
        """
        with self._wake:
            if len(self._items) >= self._capacity:
                spare = None if not keep else next((item for item in self._items if not item.keep), None)
                if spare is not None:
                    self._items.remove(spare)
                if not keep or spare is not None:
                    self.dropped += 1
                    self._dropped_while_failing += 1
                if not keep:
                    return False
            self._items.append(_Item(file, encode, keep))
            self._wake.notify_all()
        return True

    def flush(self, timeout_s: float) -> bool:
        """Wait until all queued lines are written. Return whether they are."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._items and not self._busy, timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Write the remaining lines for at most `timeout_s`, then end the thread. Return whether all are written."""
        written = self.flush(timeout_s)
        with self._wake:
            self._closing = True
            self._give_up = True
            self._wake.notify_all()
        self._thread.join(_RETRY_S + 1)
        for file in self._files.values():
            with suppress(OSError):
                file.close()
        return written

    def _close_passing(self) -> None:
        # A long run has thousands of validations, each with its own file: do not keep them open.
        for name in self._files.keys() - self._lasting:
            with suppress(OSError):
                self._files.pop(name).close()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._items or self._closing)
                if not self._items or self._give_up:
                    return
                item = self._items.popleft()
                self._busy = True
            self._write(item)
            with self._wake:
                self._busy = False
                self._wake.notify_all()

    def _write(self, item: _Item) -> None:
        line: bytes | None = None
        while True:
            try:
                file = self._files.get(item.file)
                if file is None:
                    self._close_passing()
                    file = self._files[item.file] = self._open_file(item.file)
                elif self._failing_since is not None:
                    file.reopen()
                if line is None:
                    line = item.encode()
                file.write(line)
            except OSError as error:
                self.last_error = str(error)
                with self._wake:
                    if self._failing_since is None:
                        self._failing_since = time.monotonic()
                        self._dropped_while_failing = 0
                    self._wake.wait_for(lambda: self._give_up, _RETRY_S)
                    if self._give_up:
                        return
                continue
            break
        if self._failing_since is not None:
            failed_s, dropped = time.monotonic() - self._failing_since, self._dropped_while_failing
            self._failing_since = None
            self._on_recovery(failed_s, dropped)


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        if size == 0:
            return False
        handle.seek(size - 1)
        return handle.read(1) != b"\n"
