"""Decides when a stop request is followed by SIGTERM and then by SIGKILL, if the trainer does not stop by itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["FORCED_KILL_GRACE_S", "STOP_GRACE_S", "Climb"]

STOP_GRACE_S: Final = 60.0
FORCED_KILL_GRACE_S: Final = 10.0


class Climb:
    """Decides which signal to send now. It uses no process and no clock: callers pass the time in monotonic seconds."""

    def __init__(self) -> None:
        self.asked_by: str | None = None
        self._grace_s = self._kill_grace_s = _from_environment("PATCHCORE_STOP_GRACE_S", STOP_GRACE_S)
        self._term_at: float | None = None
        self._kill_at: float | None = None

    @property
    def began(self) -> bool:
        """Whether a stop was requested."""
        return self.asked_by is not None

    def ask(self, author: str, args: Mapping[str, Any], now: float) -> None:
        """Register a stop request. A second request can only make the stop earlier, never later.

        Args:
            author: Who requests the stop.
            args: ``grace_s``: seconds until SIGTERM; ``kill_grace_s``: seconds from SIGTERM to SIGKILL;
                ``force``: send SIGTERM at once.
            now: Current time in monotonic seconds.
        """
        force = args.get("force") is True
        self.asked_by = self.asked_by or author
        grace_s = 0.0 if force else _seconds(args.get("grace_s"), self._grace_s)
        term_at = now + grace_s
        self._term_at = term_at if self._term_at is None else min(self._term_at, term_at)
        kill_grace_s = _seconds(args.get("kill_grace_s"), FORCED_KILL_GRACE_S if force else self._kill_grace_s)
        self._grace_s = min(self._grace_s, grace_s) if not force else self._grace_s
        self._kill_grace_s = min(self._kill_grace_s, kill_grace_s)
        if self._kill_at is not None:
            self._kill_at = min(self._kill_at, now + self._kill_grace_s)

    def accepted(self, now: float) -> None:
        """Restart the time until SIGTERM: the trainer accepted the stop and now writes its checkpoint."""
        if self._term_at is not None and self._kill_at is None and self._term_at > now:
            self._term_at = now + self._grace_s

    def cancel(self) -> None:
        """Cancel the stop because it was refused. If SIGTERM was already sent, SIGKILL still follows."""
        if self._kill_at is None:
            self.asked_by = self._term_at = None

    def due(self, now: float) -> signal.Signals | None:
        """Return the signal to send now: SIGTERM once, then SIGKILL at every call after its deadline; else None."""
        if self._kill_at is not None:
            return signal.SIGKILL if now >= self._kill_at else None
        if self._term_at is not None and now >= self._term_at:
            self._kill_at = now + self._kill_grace_s
            return signal.SIGTERM
        return None


def _seconds(value: Any, default: float) -> float:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e6
    return float(value) if usable else default


def _from_environment(name: str, default: float) -> float:
    try:
        return max(0.0, float(os.environ[name]))
    except (KeyError, ValueError):
        return default
