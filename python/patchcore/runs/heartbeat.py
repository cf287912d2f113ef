"""``status.json``: the latest snapshot of a run, rewritten every two seconds with a number that rises."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from patchcore.runs.paths import HEARTBEAT_S, RunPaths, read_object, write_quickly

__all__ = ["Heartbeat", "StatusFile"]


class StatusFile:
    """Writes snapshots; ``hb_seq`` goes on from what is there, so that it rises as long as the run lives.

    Args:
        paths: The run.
        attempt: The attempt the snapshots belong to.
        by: ``trainer`` or ``supervisor``.
    """

    def __init__(self, paths: RunPaths, attempt: int, *, by: str) -> None:
        self._path = paths.status
        self._head = {"schema_version": 1, "attempt": attempt, "by": by}
        self._seq = 0

    def write(self, snapshot: Mapping[str, Any]) -> bool:
        """Replace the snapshot; returns False where that failed: the next one comes in two seconds."""
        # The other writer may have written in between; a number that falls would look like no beat at all.
        previous = (read_object(self._path) or {}).get("hb_seq")
        self._seq = max(self._seq, previous if isinstance(previous, int) else 0) + 1
        try:
            write_quickly(self._path, self._head | {"hb_seq": self._seq, "t": time.time()} | dict(snapshot))
        except OSError:
            return False
        return True


class Heartbeat:
    """A thread that writes a snapshot every two seconds, whatever the training loop is at.

    Args:
        status: Where to.
        snapshot: Makes what is written; called in the thread.
        interval_s: Seconds between two beats.
    """

    def __init__(
        self,
        status: StatusFile,
        snapshot: Callable[[], Mapping[str, Any]],
        *,
        interval_s: float = HEARTBEAT_S,
    ) -> None:
        self._status = status
        self._snapshot = snapshot
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._now = threading.Event()
        self._thread = threading.Thread(target=self._run, name="patchcore-heartbeat", daemon=True)
        self._thread.start()

    def beat_now(self) -> None:
        """Write the next snapshot at once; returns without waiting for it."""
        self._now.set()

    def stop(self) -> None:
        """Write a last snapshot and end the thread."""
        self._stop.set()
        self._now.set()
        self._thread.join(self._interval_s + 5)

    def _run(self) -> None:
        while True:
            stopping = self._stop.is_set()
            self._now.clear()
            self._status.write(self._snapshot())
            if stopping:
                return
            if not self._stop.is_set():
                self._now.wait(self._interval_s)
