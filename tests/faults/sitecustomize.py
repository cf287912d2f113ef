"""Makes file operations below a folder fail at random, in processes that have this folder in PYTHONPATH.

``PATCHCORE_FAULTS`` is JSON: ``root``: the folder; ``share``: share of operations that fail; ``seed``: one number,
which is mixed with the role of the process; ``roles``: share by role (``trainer``, ``supervisor``, ``reader``), instead
of ``share``; ``quiet``: numbers of operations, of which one is drawn, that succeed first. A network file system that
loses its server fails with ESTALE or EIO, a lock daemon with ENOLCK, a full disk with ENOSPC. Errors come in bursts, as
they do there.
"""

import builtins
import errno
import fcntl
import io
import json
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ANY = (errno.ESTALE, errno.EIO)
_WRITING = (*_ANY, errno.ENOSPC)
_BURST = 3


def _role() -> str:
    # sys.argv is not set yet when this module is imported.
    words = Path("/proc/self/cmdline").read_bytes().split(b"\0")
    if any(word.endswith(b"supervisor") for word in words):
        return "supervisor"
    return "trainer" if any(word.endswith(b"trainer") for word in words) else "reader"


class _Faults:
    def __init__(self, settings: dict[str, Any], role: str) -> None:
        self.root = os.path.realpath(settings["root"])
        self.share = settings.get("roles", {}).get(role, settings.get("share", 0.0))
        self._draw = random.Random(f"{settings['seed']} {role}")
        self._left, self._code = 0, errno.EIO
        self._quiet = self._draw.choice(settings.get("quiet", [0]))
        self._guard = threading.Lock()

    def maybe(self, place: Any, codes: tuple[int, ...]) -> None:
        """Raise an error for some operations on a path or descriptor below the root."""
        if not self._is_below(place):
            return
        with self._guard:
            self._quiet -= 1
            if self._quiet >= 0:
                return
            if self._left == 0:
                if self._draw.random() >= self.share / _BURST:
                    return
                self._left, self._code = self._draw.randint(1, 2 * _BURST - 1), self._draw.choice(codes)
            self._left -= 1
            code = self._code if self._code in codes else codes[0]
        raise OSError(code, os.strerror(code), place if isinstance(place, str) else None)

    def _is_below(self, place: Any) -> bool:
        if isinstance(place, int):
            try:
                place = _readlink(f"/proc/self/fd/{place}")
            except OSError:
                return False
        try:
            text = os.fsdecode(place)
        except TypeError:
            return False
        return text.startswith(self.root + os.sep)


_readlink = os.readlink


def _wrap(module: Any, name: str, faults: _Faults, codes: tuple[int, ...], *, places: int = 1) -> None:
    real: Callable[..., Any] = getattr(module, name)

    def failing(*arguments: Any, **options: Any) -> Any:
        for place in arguments[:places]:
            faults.maybe(place, codes)
        return real(*arguments, **options)

    setattr(module, name, failing)


def _install(settings: dict[str, Any]) -> None:
    faults = _Faults(settings, _role())
    if not faults.share:
        return
    for name in ("stat", "lstat", "scandir", "listdir", "read"):
        _wrap(os, name, faults, _ANY)
    for name in ("mkdir", "rmdir", "unlink", "write", "fsync", "open"):
        _wrap(os, name, faults, _WRITING)
    for name in ("replace", "rename", "link"):
        _wrap(os, name, faults, _WRITING, places=2)
    for name in ("lockf", "fcntl"):
        _wrap(fcntl, name, faults, (errno.ESTALE, errno.ENOLCK))
    _wrap(io, "open", faults, _WRITING)
    builtins.open = io.open


if "PATCHCORE_FAULTS" in os.environ:
    _install(json.loads(os.environ["PATCHCORE_FAULTS"]))
