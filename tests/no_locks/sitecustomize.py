"""Makes every file system one without locks, in processes that have this folder in PYTHONPATH."""

import errno
import fcntl
import os

_fcntl = fcntl.fcntl
_code = int(os.environ.get("PATCHCORE_TEST_LOCK_ERRNO", errno.ENOLCK))


def _refuse(*_: object, **__: object) -> None:
    raise OSError(_code, os.strerror(_code))


def _no_getlk(handle: int, command: int, argument: object = 0) -> object:
    if command in (fcntl.F_GETLK, fcntl.F_SETLK, fcntl.F_SETLKW):
        _refuse()
    return _fcntl(handle, command, argument)  # type: ignore[arg-type]


fcntl.lockf = fcntl.flock = _refuse
fcntl.fcntl = _no_getlk  # type: ignore[assignment]
