"""Advisory locks that die with their process, also on network file systems."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patchcore.errors import LockedError

__all__ = ["hold_lock"]

# lockf locks belong to the process: taking one twice succeeds, and closing any descriptor of the file drops
# it. So each file is opened once a process, and who holds what in this process is remembered here.
_held: set[Path] = set()
_guard = threading.Lock()
_POLL_S = 0.02


@contextmanager
def hold_lock(path: Path, *, what: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold an exclusive lock on `path` for the block.

    Args:
        path: The lock file; made where absent, kept afterwards.
        what: What the lock protects, for the message.
        wait_s: How long to wait for another that holds it; not at all unless told otherwise.

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
    deadline = time.monotonic() + wait_s

    def wait() -> None:
        if time.monotonic() >= deadline:
            raise refusal from None
        time.sleep(_POLL_S)

    while True:
        with _guard:
            if key not in _held:
                _held.add(key)
                break
        wait()
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            while True:
                try:
                    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except (BlockingIOError, PermissionError):
                    wait()
                else:
                    break
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            yield
        finally:
            os.close(descriptor)
    finally:
        with _guard:
            _held.discard(key)
