"""How a stop climbs: wait for the next boundary, then SIGTERM, then SIGKILL."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["FORCED_KILL_GRACE_S", "STOP_GRACE_S", "Climb"]

STOP_GRACE_S: Final = 60.0
FORCED_KILL_GRACE_S: Final = 10.0


class Climb:
    """Decides which signal is due. Knows no process and no clock: times are handed in, monotonic seconds."""

    def __init__(self) -> None:
        self.asked_by: str | None = None
        self._grace_s = self._kill_grace_s = _from_environment("PATCHCORE_STOP_GRACE_S", STOP_GRACE_S)
        self._term_at: float | None = None
        self._kill_at: float | None = None

    @property
    def began(self) -> bool:
        """Whether a stop is on its way."""
        return self.asked_by is not None

    def ask(self, author: str, args: Mapping[str, Any], now: float) -> None:
        """Take a stop on; a second one can only hasten the first.

        Args:
            author: Who asks.
            args: ``grace_s`` until SIGTERM, ``kill_grace_s`` from there to SIGKILL;
                ``force``: SIGTERM at once.
            now: The time.
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
        """The trainer has taken the stop on and writes its checkpoint: the time to do so starts anew."""
        if self._term_at is not None and self._kill_at is None and self._term_at > now:
            self._term_at = now + self._grace_s

    def cancel(self) -> None:
        """The stop was refused; what was sent stays sent."""
        if self._kill_at is None:
            self.asked_by = self._term_at = None

    def due(self, now: float) -> signal.Signals | None:
        """Return the signal to send now: SIGTERM once, and SIGKILL from its time on."""
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
