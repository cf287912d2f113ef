"""Works on an experiment: claims its points, has their runs started, and decides what their ends mean.

A *failure* is an attempt that ended by its own error, or the second crash in a row that has gained no step. An attempt
that was killed or interrupted from outside is continued and never counts.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from patchcore.errors import LockedError, PatchcoreError, RunError
from patchcore.experiments.folder import ExperimentFolder, Place, dispatcher_lock
from patchcore.experiments.protocol import Point
from patchcore.interrupts import STOP_SIGNALS
from patchcore.locks import FileLock
from patchcore.runs import RunState, request, run_state, whole_view
from patchcore.runs.paths import RunPaths, read_object
from patchcore.runs.state import StateWatcher

__all__ = [
    "FAILURES_OF_A_HOST",
    "Dispatcher",
    "Executor",
    "Failures",
    "failures_of",
    "finish_point",
    "was_stopped_by_user",
]

_POLL_S: Final = 0.25
_SILENT_S: Final = 600.0
"""A point of somebody else is asked about if its training has not lived for so long."""
FAILURES_OF_A_HOST: Final = 3
"""After so many failures in a row, this host takes no more points: the fault may be its own."""

_OWN_ERRORS: Final = {RunState.FAILED.value, RunState.OUT_OF_MEMORY.value}


class Executor(Protocol):
    """Starts runs. Each executor decides where."""

    slots: int

    def start(self, run: Path, slot: int) -> None:
        """Start the next attempt of a run in a slot, and return at once."""

    def evaluate(self, study: Path, run: Path, slot: int) -> subprocess.Popen[bytes] | None:
        """Start the evaluation of a finished run in its slot; None if it is not evaluated."""


@dataclass(frozen=True)
class Failures:
    """How often a run has failed.

    Attributes:
        count: Number of failures.
        reason: Reason of the last one.
    """

    count: int
    reason: str | None


@dataclass
class Dispatcher:
    """Works on an experiment until no point is left, or until it is asked to stop.

    Attributes:
        folder: The experiment.
        executor: Starts the runs.
        make_run: Creates the run folder of a point.
        stopping: Whether this process was asked to stop.
        say: Prints a line.
        poll_s: Time between two looks at the runs [s].
    """

    folder: ExperimentFolder
    executor: Executor
    make_run: Callable[[Point], Path]
    stopping: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = print
    poll_s: float = _POLL_S
    _live: dict[str, tuple[Path, int]] = field(default_factory=dict)  # point → run and slot
    _evaluations: dict[str, subprocess.Popen[bytes] | None] = field(default_factory=dict)
    _watchers: dict[str, StateWatcher] = field(default_factory=dict)  # name of the run → its watcher
    _asked: set[str] = field(default_factory=set)  # points that have received a request to stop
    _failed: list[Mapping[str, str]] = field(default_factory=list)  # values of points that have failed here
    _failed_in_a_row: int = 0
    _stop: bool = False
    _silent_since: float | None = None  # since when nobody trains what open points wait for

    def work(self) -> bool:
        """Work until the end.

        Returns:
            Whether all points are done.

        Raises:
            LockedError: Another dispatcher of this host works on the experiment.
            OSError: The folder cannot be written.
        """
        lock = FileLock(
            dispatcher_lock(self.folder.path, self.folder.owner),
            what="the experiment",
            remedy="it is worked on already; watch it with patchcore experiments show",
        )
        with lock:
            self._adopt()
            self._failed += failed_before(self.folder)
            while True:
                self._stop = self._stop or self.stopping() or self.folder.stop_file.exists()
                self._look()
                if self._stop:
                    self._ask_to_stop()
                elif self._failed_in_a_row < FAILURES_OF_A_HOST:
                    self._fill()
                if not self._live and not self._waits():
                    break
                time.sleep(self.poll_s)
            if self._failed_in_a_row >= FAILURES_OF_A_HOST:
                self.say(
                    f"{FAILURES_OF_A_HOST} failures in a row: this host takes no more points. Read the reasons with "
                    "patchcore experiments show, remove the cause, and run the same command again: it begins with the "
                    "settings that have not failed."
                )
        return all(place is Place.DONE for place, _ in self.folder.places().values())

    def _waits(self) -> bool:
        """Return whether points will be ready that somebody else has to finish the source of."""
        waits = not self._stop and self._failed_in_a_row < FAILURES_OF_A_HOST and self.folder.waits_for_somebody()
        if waits and not self._live:
            self._look_at_others()
        return waits

    def _look_at_others(self) -> None:
        """Say whom this dispatcher waits for, once, if their trainings do not live: their host may be lost."""
        awaited = {point.after for point in self.folder.points.values() if point.after is not None}
        silent = {}
        for owner, points in self.folder.owners().items():
            for point_id in awaited.intersection(points):
                run = self.folder.run_of(point_id, self.folder.places()[point_id][1])
                if run is None or not self._watchers.setdefault(run.name, StateWatcher(run)).look().state.is_live:
                    silent[point_id] = owner
        if not silent:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = time.monotonic()
        elif time.monotonic() - self._silent_since > _SILENT_S:
            self._silent_since = math.inf  # said once
            point_id, owner = next(iter(silent.items()))
            self.say(
                f"waiting for {point_id}: {owner} has claimed it, but no training of it has lived for "
                f"{_SILENT_S / 60:.0f} minutes. If {owner} does not exist any more, stop this experiment, then "
                f"continue it with patchcore experiments retry … --take-over {owner}"
            )

    def _adopt(self) -> None:
        """Watch the runs of a dispatcher of this host that has ended: its lock is free, so it has.

        If a run has ended, too, its point waits for a free slot: there may be fewer slots now.
        """
        for point_id, entry in self.folder.own_claims().items():
            run = self.folder.run_of(point_id, entry)
            if run is not None and run_state(run).state.is_live:
                self._begin(self.folder.points[point_id], entry)
            else:
                self.folder.move(point_id, Place.CLAIMED, Place.OPEN)

    def _fill(self) -> None:
        while len(self._live) < self.executor.slots:
            point = self.folder.claim(last=self._failed)
            if point is None:
                return
            self._begin(point, self.folder.places()[point.point_id][1])

    def _begin(self, point: Point, entry: dict[str, Any]) -> None:
        run = self.folder.run_of(point.point_id, entry)
        try:
            if run is None:
                run = self.make_run(point)
            if entry.get("run") != run.name:
                self.folder.note(point.point_id, Place.CLAIMED, run=run.name)
            taken = {slot for _, slot in self._live.values()}
            slot = next(number for number in range(self.executor.slots + len(taken)) if number not in taken)
            self._live[point.point_id] = (run, slot)
            report = run_state(run)
            if not report.state.is_live and report.state is not RunState.FINISHED:
                self._start(point.point_id, run, slot, resumed=report.attempt is not None)
        except (PatchcoreError, OSError) as error:
            self._live.pop(point.point_id, None)
            self._end(point.point_id, f"could not be started: {error}")
            self._failed.append(point.values)
            self._failed_in_a_row += 1

    def _start(self, point_id: str, run: Path, slot: int, *, resumed: bool) -> None:
        try:
            self.executor.start(run, slot)
        except LockedError:  # somebody has resumed the run by hand
            return
        self.say(f"{point_id}: {'continues' if resumed else 'starts'} as {run.name}")

    def _look(self) -> None:
        for point_id, (run, slot) in list(self._live.items()):
            # One watcher for the whole time: on another host, only a heartbeat that stands still shows an end.
            report = self._watchers.setdefault(run.name, StateWatcher(run)).look()
            if report.state.is_live or report.state is RunState.QUEUED:
                continue
            if report.state is RunState.FINISHED:
                if self._is_evaluated(point_id, run, slot):
                    del self._live[point_id]
                    self._failed_in_a_row = 0
                    self._finish(point_id, run)
                elif self._stop:
                    self._end_evaluation(point_id)
                    del self._live[point_id]
                    self.folder.move(point_id, Place.CLAIMED, Place.OPEN)
            elif self._stop:
                del self._live[point_id]
                self.folder.move(point_id, Place.CLAIMED, Place.OPEN)
                self.say(f"{point_id}: stopped; it continues with the next call")
            elif was_stopped_by_user(run, report.attempt):
                del self._live[point_id]
                self._end(point_id, f"stopped: {report.reason}")
            else:
                self._judge(point_id, run, slot)

    def _judge(self, point_id: str, run: Path, slot: int) -> None:
        entry = self.folder.own_claims().get(point_id, {})
        failures = failures_of(run, since=int(entry.get("forgiven") or 0))
        newest = read_object(RunPaths(run).exit(RunPaths(run).newest_attempt() or 1)) or {}
        if newest.get("state") in _OWN_ERRORS:
            self._failed.append(self.folder.points[point_id].values)
        # Too little memory is the fault of a setting, not of this host.
        self._failed_in_a_row += newest.get("state") == RunState.FAILED.value
        if failures.count >= self.folder.protocol.failures_allowed:
            del self._live[point_id]
            self._end(point_id, f"failed {failures.count} times: {failures.reason}")
        elif self._failed_in_a_row >= FAILURES_OF_A_HOST:
            del self._live[point_id]
            self.folder.move(point_id, Place.CLAIMED, Place.OPEN)
        else:
            try:
                self._start(point_id, run, slot, resumed=True)
            except (PatchcoreError, OSError) as error:
                del self._live[point_id]
                self._end(point_id, f"could not be continued: {error}")

    def _is_evaluated(self, point_id: str, run: Path, slot: int) -> bool:
        """Start the evaluation of a finished run, or look at it. A failed evaluation can be repeated by the report."""
        if point_id not in self._evaluations:
            study = self.folder.study_of(self.folder.points[point_id])
            self._evaluations[point_id] = self.executor.evaluate(study, run, slot)
        process = self._evaluations[point_id]
        return process is None or process.poll() is not None

    def _end_evaluation(self, point_id: str) -> None:
        process = self._evaluations.pop(point_id, None)
        if process is not None:
            process.terminate()
            process.wait()

    def _finish(self, point_id: str, run: Path) -> None:
        process = self._evaluations.pop(point_id, None)
        finish_point(self.folder, point_id, run)
        best = whole_view(run).best_validation
        score = "" if best is None else f", validation DSC {best.dsc_mean:.4f} at step {best.step}"
        problem = "" if process is None or process.returncode == 0 else "; its evaluation failed, see the log"
        self.say(f"{point_id}: finished{score}{problem}")

    def _end(self, point_id: str, reason: str) -> None:
        self.folder.move(point_id, Place.CLAIMED, Place.ENDED, reason=reason)
        self.say(f"{point_id}: {reason}")

    def _ask_to_stop(self) -> None:
        for point_id, (run, _) in self._live.items():
            if point_id not in self._asked:
                self._asked.add(point_id)
                try:
                    request(run, "stop")
                except (RunError, OSError):
                    self._asked.discard(point_id)  # not running yet, or over: looked at again


def finish_point(folder: ExperimentFolder, point_id: str, run: Path) -> None:
    """Move a claimed point to the finished ones, and remove the checkpoint that nobody needs any more."""
    if not folder.protocol.keep_checkpoints:
        shutil.rmtree(run / "checkpoints" / "last", ignore_errors=True)
    folder.move(point_id, Place.CLAIMED, Place.DONE)


def failed_before(folder: ExperimentFolder) -> list[Mapping[str, str]]:
    """Return the values of open points that have failed in an earlier call: others come first."""
    found: list[Mapping[str, str]] = []
    for point_id, (place, entry) in folder.places().items():
        if place is Place.OPEN and isinstance(entry.get("run"), str):
            run = folder.run_of(point_id, entry)
            if run is not None and failures_of(run).count:
                found.append(folder.points[point_id].values)
    return found


def failures_of(run: Path, *, since: int = 0) -> Failures:
    """Count how often a run has failed, after the attempt `since`."""
    paths = RunPaths(run)
    count, without_gain, reason = 0, 0, None
    for attempt in range(since + 1, (paths.newest_attempt() or 0) + 1):
        ended = read_object(paths.exit(attempt)) or {}
        following = read_object(paths.start(attempt + 1)) or {}
        begun = (read_object(paths.start(attempt)) or {}).get("resumed_from_step") or 0
        if ended.get("state") in _OWN_ERRORS:
            count, without_gain, reason = count + 1, 0, ended.get("reason")
        elif (
            ended.get("state") == RunState.CRASHED.value
            and following
            and (following.get("resumed_from_step") or 0) <= begun
        ):
            without_gain += 1
            if without_gain == 2:
                count, without_gain = count + 1, 0
                reason = ended.get("reason") or "ended twice without gaining a step"
        elif (following.get("resumed_from_step") or 0) > begun:
            without_gain = 0
    return Failures(count, None if reason is None else str(reason))


def was_stopped_by_user(run: Path, attempt: int | None) -> bool:
    """Return whether a user requested the end of an attempt. A signal is not a user: clusters send it."""
    ended = read_object(RunPaths(run).exit(attempt or 1)) or {}
    if ended.get("state") not in (RunState.STOPPED.value, RunState.PAUSED.value):
        return False
    return ended.get("asked_by") not in (None, *(number.name for number in STOP_SIGNALS))
