"""File locks that end with the process that holds them, and that name this process: ``fcntl.lockf`` on a file.

``flock`` is not used: a forked loader worker inherits it and keeps it after the death of its parent. POSIX locks have
another problem: closing *any* descriptor of the file releases the lock of the process. Therefore a file that this
process has locked is never opened a second time; :func:`lock_holder` knows its own locks from memory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
from pathlib import Path
from types import TracebackType
from typing import Final

from patchcore.errors import LockedError
from patchcore.types import PathLike

__all__ = ["FileLock", "lock_holder"]

# struct flock of 64-bit Linux: type, whence, start, length, pid (and padding).
_FLOCK: Final = struct.Struct("@hhqqi4x")

_held: dict[str, int] = {}  # path → pid that took the lock; a forked child inherits the entry, but not the lock
_guard = threading.Lock()


def _renew_guard() -> None:
    global _guard
    _guard = threading.Lock()


os.register_at_fork(after_in_child=_renew_guard)


class FileLock:
    """A lock on a file. It is held until :meth:`release` or until the process ends.

    Args:
        path: The lock file. It is created if it is missing, and never removed.
        what: What the lock protects, for the error message.
        remedy: What to do if another process holds the lock.
    """

    def __init__(
        self, path: PathLike, *, what: str = "this file", remedy: str = "wait until that process ends, or stop it"
    ) -> None:
        self.path = Path(path)
        self.what = what
        self.remedy = remedy
        self._handle: int | None = None
        self._key = os.path.realpath(self.path)

    def acquire(self) -> None:
        """Take the lock without waiting.

        Raises:
            LockedError: Another process or this process holds the lock. The message names the process.
            OSError: The file cannot be created, or the file system does not support locks.
        """
        with _guard:
            if _held.get(self._key) == os.getpid():
                raise self._locked(os.getpid())
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _probe(handle) if error.errno in (errno.EAGAIN, errno.EACCES) else None
                os.close(handle)
                if holder is not None or error.errno in (errno.EAGAIN, errno.EACCES):
                    raise self._locked(holder) from None
                raise OSError(
                    error.errno, f"the file system does not support locks ({error.strerror})", str(self.path)
                ) from None
            _held[self._key] = os.getpid()
            self._handle = handle

    def release(self) -> None:
        """Release the lock. Does nothing if this process does not hold it, e.g. in a forked child."""
        with _guard:
            if self._handle is not None and _held.get(self._key) == os.getpid():
                del _held[self._key]
                os.close(self._handle)
                self._handle = None

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _locked(self, pid: int | None) -> LockedError:
        who = f"process {pid}" if pid else "another process"
        return LockedError(
            f"{self.what} is in use by {who}",
            path=self.path,
            found=pid,
            remedy=self.remedy,
        )


def lock_holder(path: PathLike) -> int | None:
    """Return the process that holds a lock, without taking the lock.

    Returns:
        The process id; 0 if the holder has no process id here (another container or host); None if the lock is free.
    """
    key = os.path.realpath(path)
    with _guard:
        if _held.get(key) == os.getpid():
            return os.getpid()
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return _probe(handle)
        finally:
            os.close(handle)


def _probe(handle: int) -> int | None:
    request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(handle, fcntl.F_GETLK, request))
    return None if kind == fcntl.F_UNLCK else max(pid, 0)
