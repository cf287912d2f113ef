"""Advisory locks that die with their process, also on network file systems."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patchcore.errors import LockedError

__all__ = ["hold_lock"]

# lockf locks belong to the process: taking one twice succeeds, and closing any descriptor of the file drops
# it. So each file is opened once a process, and who holds what in this process is remembered here.
_held: set[Path] = set()
_guard = threading.Lock()


@contextmanager
def hold_lock(path: Path, *, what: str) -> Iterator[None]:
    """Hold an exclusive lock on `path` for the block; never waits.

    Args:
        path: The lock file; made where absent, kept afterwards.
        what: What the lock protects, for the message.

    Raises:
        LockedError: Another process, or another thread of this one, holds it.
        OSError: The lock file cannot be made.
    """
    key = path.absolute()
    refusal = LockedError(
        f"{what} is in use by another process",
        path=path,
        remedy="wait until it ends, or stop it, then try again",
    )
    with _guard:
        if key in _held:
            raise refusal
        _held.add(key)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise refusal from None
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            yield
        finally:
            os.close(descriptor)
    finally:
        with _guard:
            _held.discard(key)
