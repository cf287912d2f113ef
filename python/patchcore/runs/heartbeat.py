"""Writes ``status.json``: the latest snapshot of a run, replaced every two seconds, with an increasing number."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from patchcore.processes import boot_id
from patchcore.runs.paths import HEARTBEAT_S, RunPaths, read_object, write_quickly
from patchcore.runs.values import as_count

__all__ = ["Heartbeat", "StatusFile"]


class StatusFile:
    """Writes snapshots. ``hb_seq`` continues from the value in the file, so that it increases over the whole run.

    Args:
        paths: Paths of the run.
        attempt: Number of the attempt that the snapshots belong to.
        by: ``trainer`` or ``supervisor``.
    """

    def __init__(self, paths: RunPaths, attempt: int, *, by: str) -> None:
        self._path = paths.status
        self._head = {"schema_version": 1, "attempt": attempt, "by": by}
        self._seq = 0

    def write(self, snapshot: Mapping[str, Any]) -> bool:
        """Replace the snapshot. Return False if that failed; the next snapshot follows in two seconds."""
        # Trainer and supervisor both write this file. Continue from the newest number: it must never decrease.
        previous = (read_object(self._path) or {}).get("hb_seq")
        self._seq = max(self._seq, as_count(previous) or 0) + 1
        try:
            beat = {"hb_seq": self._seq, "t": time.time(), "mono": time.monotonic(), "boot_id": boot_id()}
            write_quickly(self._path, self._head | beat | dict(snapshot))
        except OSError:
            return False
        return True


class Heartbeat:
    """A thread that writes a snapshot every two seconds, independently of the training loop.

    Args:
        status: The file to write to.
        snapshot: Returns the snapshot to write; called in the thread.
        interval_s: Seconds between two snapshots.
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
        """Write the next snapshot at once. Does not wait until it is written."""
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
