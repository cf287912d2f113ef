"""File locks that end with the process that holds them, and that name this process: ``fcntl.lockf`` on a file.

Some file systems have no such locks (NFS without lockd, Lustre without flock). With :func:`without_locks`, a file that
is created exclusively names the process instead: that keeps the processes of one machine apart, not those of several.

``flock`` is not used: a forked loader worker inherits it and keeps it after the death of its parent. POSIX locks have
another problem: closing *any* descriptor of the file releases the lock of the process. Therefore a file that this
process has locked is never opened a second time; :func:`lock_holder` knows its own locks from memory.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from patchcore.errors import LockedError, NoLocksError
from patchcore.processes import boot_id, pid_namespace, process_start
from patchcore.types import PathLike

__all__ = ["NO_LOCKS", "WHAT_IS_LOST", "FileLock", "check_locks", "lock_holder", "without_locks"]

NO_LOCKS: Final = "PATCHCORE_NO_LOCKS"
"""Environment variable that turns locks of the file system off, for this process and the processes that it starts."""
WHAT_IS_LOST: Final = (
    "without locks, only commands on this machine are kept apart: do not work on one study from two machines at once; "
    "after a restart of the machine, a leftover lock has to be deleted by hand"
)

# struct flock of 64-bit Linux: type, whence, start, length, pid (and padding).
_FLOCK: Final = struct.Struct("@hhqqi4x")

_UNSUPPORTED: Final = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})

_TRIES: Final = 3

_held: dict[str, int] = {}  # path → pid that took the lock; a forked child inherits the entry, but not the lock
_guard = threading.Lock()


def _renew_guard() -> None:
    global _guard
    _guard = threading.Lock()


os.register_at_fork(after_in_child=_renew_guard)


def without_locks() -> bool:
    """Return whether locks of the file system are turned off."""
    return os.environ.get(NO_LOCKS, "") not in ("", "0")


def check_locks(folder: PathLike) -> None:
    """Check that a folder supports locks, before anything is written into it; the folder need not exist yet.

    Raises:
        NoLocksError: The file system does not support locks.
    """
    if without_locks():
        return
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    probe = FileLock(place / f".patchcore-lock-{os.getpid()}-{threading.get_ident()}")
    # A folder that cannot be written to is reported when something is written.
    with suppress(OSError):
        try:
            with probe:
                pass
        finally:
            probe.path.unlink(missing_ok=True)


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
        self._named = False  # whether the lock is a file that names this process
        self._key = os.path.realpath(self.path)

    def acquire(self) -> None:
        """Take the lock without waiting.

        Raises:
            LockedError: Another process or this process holds the lock. The message names the process.
            NoLocksError: The file system does not support locks; nothing is left behind.
            OSError: The file cannot be created.
        """
        with _guard:
            if _held.get(self._key) == os.getpid():
                raise self._locked(os.getpid())
            if without_locks():
                self._take_by_name()
                self._named = True
            else:
                self._handle = self._take()
            _held[self._key] = os.getpid()

    def _take(self) -> int:
        """Lock the file and return its descriptor, which holds the lock."""
        # A process that was started with --no-locks on this file system names itself.
        self._check_owner()
        new = not self.path.exists()
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            taken = error.errno in (errno.EAGAIN, errno.EACCES)
            holder = _probe(handle) if taken else None
            os.close(handle)
            if taken:
                raise self._locked(holder) from None
            if new:
                with suppress(OSError):
                    self.path.unlink()
            if error.errno in _UNSUPPORTED:
                raise _unsupported(error, self.path) from None
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        return handle

    def _take_by_name(self) -> None:
        """Give the file that names this process the name of the lock; that of an ended process is replaced."""
        owner, content = _owner_path(self.path), json.dumps(_this_process())
        temporary = owner.with_name(f".{owner.name}.{os.getpid()}-{threading.get_ident()}")
        try:
            temporary.write_text(content, encoding="utf-8")
            for _ in range(_TRIES):
                if _linked(temporary, owner, content):
                    return
                self._check_owner()
                _remove_stale(owner, temporary)
        finally:
            with suppress(OSError):
                temporary.unlink()
        raise self._locked(None)

    def _check_owner(self) -> None:
        """Raise LockedError if the file that names a process does not name one that has ended."""
        holder = _named_holder(self.path)
        if holder == 0:
            raise LockedError(
                f"{self.what} was locked on another machine, in another container, or before a restart of this machine",
                path=self.path,
                remedy=f"if nothing works on it any more, delete {_owner_path(self.path)}",
            )
        if holder is not None:
            raise self._locked(holder)

    def release(self) -> None:
        """Release the lock. Does nothing if this process does not hold it, e.g. in a forked child."""
        with _guard:
            if _held.get(self._key) != os.getpid():
                return
            if self._handle is not None:
                del _held[self._key]
                os.close(self._handle)
                self._handle = None
            elif self._named:
                self._named = False
                del _held[self._key]
                if _named_holder(self.path) == os.getpid():
                    with suppress(OSError):
                        _owner_path(self.path).unlink()

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
        named = _named_holder(Path(path))
        if without_locks() or named is not None:
            return named
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return _probe(handle)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                raise _unsupported(error, Path(path)) from None
            raise
        finally:
            os.close(handle)


def _probe(handle: int) -> int | None:
    request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(handle, fcntl.F_GETLK, request))
    return None if kind == fcntl.F_UNLCK else max(pid, 0)


def _unsupported(error: OSError, path: Path) -> NoLocksError:
    return NoLocksError(
        f"the file system of this folder does not support locks ({error.strerror})",
        path=path,
        remedy=f"use a folder on a local disk, or add --no-locks: {WHAT_IS_LOST}",
    )


def _owner_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.owner")


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {"pid": pid, "started": process_start(pid), "boot_id": boot_id(), "pid_namespace": pid_namespace()}


def _linked(temporary: Path, owner: Path, content: str) -> bool:
    """Give a complete file a second name, if that name is free."""
    try:
        os.link(temporary, owner)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        # A file system without hard links: between creating and writing, the file is empty.
        try:
            handle = os.open(owner, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
    return True


def _remove_stale(owner: Path, temporary: Path) -> None:
    """Remove the file of a process that has ended; if another process was faster, its file is put back."""
    taken = temporary.with_name(f"{temporary.name}.stale")
    try:
        owner.rename(taken)
    except FileNotFoundError:
        return
    try:
        if _holder_in(taken) is not None:
            with suppress(OSError):
                os.link(taken, owner)
    finally:
        with suppress(OSError):
            taken.unlink()


def _named_holder(path: Path) -> int | None:
    """Return the process that a lock file names: its id, 0 if it is not known here, None if it has ended."""
    return _holder_in(_owner_path(path))


def _holder_in(owner: Path) -> int | None:
    try:
        value = json.loads(owner.read_text(encoding="utf-8") or "{}")
    except FileNotFoundError:
        return None
    except ValueError:
        return 0
    here = ("boot_id", boot_id()), ("pid_namespace", pid_namespace())
    if not isinstance(value, dict) or not isinstance(value.get("pid"), int):
        return 0
    if any(value.get(name) != own for name, own in here):
        return 0
    return value["pid"] if process_start(value["pid"]) == value.get("started") else None
