"""Trains points in this process, one after the other: what a task of a cluster does.

    python -m patchcore.experiments.worker EXPERIMENT --owner NAME

Each point is trained as by ``patchcore train --foreground`` and then evaluated. A signal stops the training with a
checkpoint; the point stays claimed, and whoever works under the same name later continues it.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from patchcore.errors import LockedError, PatchcoreError, RunError
from patchcore.experiments.dispatch import (
    FAILURES_OF_A_HOST,
    failed_before,
    failures_of,
    finish_point,
    was_stopped_by_user,
)
from patchcore.experiments.folder import ExperimentFolder, Place, dispatcher_lock
from patchcore.experiments.local import evaluation_command, make_run
from patchcore.experiments.protocol import Point
from patchcore.interrupts import StopSignal
from patchcore.locks import FileLock
from patchcore.runs import RunState, run_state, supervise_foreground
from patchcore.runs.paths import RunPaths, read_object
from patchcore.types import ExitCode

__all__ = ["Outcome", "Worker", "bad_hosts"]

_LOCKED_S: Final = 120.0
"""So long may the lock of a lost attempt stay on a network file system."""


class Outcome(StrEnum):
    """How the work on a point has ended."""

    DONE = "done"
    ENDED = "ended"  # it has failed too often, or a user has stopped it
    INTERRUPTED = "interrupted"  # by a signal, or by a request to stop the experiment
    TAKEN = "taken"  # somebody else works on it, or it waits for another point
    BAD_HOST = "bad host"


@dataclass
class Worker:
    """Works on points under one name.

    Attributes:
        folder: The experiment, with the name of the worker as owner.
        stop: Records signals while no training runs.
        make_run: Creates the run folder of a point.
        evaluates: Whether finished runs are evaluated.
        say: Prints a line.
    """

    folder: ExperimentFolder
    stop: StopSignal
    make_run: Callable[[ExperimentFolder, Point], Path] = make_run
    evaluates: bool = True
    say: Callable[[str], None] = lambda text: print(time.strftime("%Y-%m-%d %H:%M:%S"), text, flush=True)
    _failed: list[Mapping[str, str]] = field(default_factory=list)  # values of points that have failed here
    _asked: bool = field(default=False)

    def work(self) -> Outcome:
        """Work on own claims and on open points until there are none.

        Returns:
            DONE, INTERRUPTED or BAD_HOST.
        """
        self._failed += failed_before(self.folder)
        while True:
            mine = [*self.folder.own_claims()]
            point = self.folder.points[mine[0]] if mine else None
            if point is None and not self._stopping():
                point = self.folder.claim(last=self._failed)
            if point is None:
                if self._stopping():
                    return Outcome.INTERRUPTED
                if not self.folder.waits_for_somebody():
                    return Outcome.DONE
                time.sleep(1)
                continue
            outcome = self.work_on(point.point_id)
            if outcome in (Outcome.INTERRUPTED, Outcome.BAD_HOST):
                return outcome
            if outcome is Outcome.ENDED:
                self._failed.append(point.values)

    def work_on(self, point_id: str) -> Outcome:
        """Train and evaluate a point, and put its entry where it belongs.

        Raises:
            OSError: The folder of the experiment cannot be written.
        """
        folder, point = self.folder, self.folder.points[point_id]
        if point_id not in folder.own_claims() and not (
            folder.is_ready(point) and folder.move(point_id, Place.OPEN, Place.CLAIMED)
        ):
            return Outcome.DONE if folder.places()[point_id][0] is Place.DONE else Outcome.TAKEN
        if host_is_bad(folder):
            self.say(
                f"{FAILURES_OF_A_HOST} failures in a row on {socket.gethostname()}: this host takes no more points. "
                f"Remove the cause, and the file {_host_log(folder)}."
            )
            folder.move(point_id, Place.CLAIMED, Place.OPEN)
            return Outcome.BAD_HOST
        try:
            entry = folder.own_claims()[point_id]
            run = folder.run_of(point_id, entry)
            if run is None:
                run = self.make_run(folder, point)
            if entry.get("run") != run.name:
                folder.note(point_id, Place.CLAIMED, run=run.name)
            while run_state(run).state is not RunState.FINISHED:
                if self._stopping():
                    return self._interrupted(point_id)
                self.say(f"{point_id}: trains as {run.name}")
                self._train(run)
                report = run_state(run)
                if report.state.is_live:
                    return self._interrupted(point_id)
                ended = read_object(RunPaths(run).exit(report.attempt or 1)) or {}
                if ended.get("state") != RunState.OUT_OF_MEMORY.value:  # the fault of a setting, not of this host
                    _note_on_host(folder, failed=ended.get("state") == RunState.FAILED.value)
                if report.state is RunState.FINISHED:
                    break
                if was_stopped_by_user(run, report.attempt) and not folder.stop_file.exists():
                    return self._end(point_id, f"stopped: {report.reason}")
                if report.state in (RunState.STOPPED, RunState.PAUSED):
                    return self._interrupted(point_id)
                failures = failures_of(run, since=int(entry.get("forgiven") or 0))
                if failures.count >= folder.protocol.failures_allowed:
                    return self._end(point_id, f"failed {failures.count} times: {failures.reason}")
                if host_is_bad(folder):
                    folder.move(point_id, Place.CLAIMED, Place.OPEN)
                    return Outcome.BAD_HOST
            if self.evaluates and not self._evaluate(point, run.name):
                return self._interrupted(point_id)
        except LockedError as error:
            self.say(f"{point_id}: {error}")
            return self._interrupted(point_id)
        except (PatchcoreError, OSError) as error:
            _note_on_host(folder, failed=True)
            return self._end(point_id, f"could not be trained: {error}")
        finish_point(folder, point_id, run)
        self.say(f"{point_id}: finished")
        return Outcome.DONE

    def _train(self, run: Path) -> None:
        """Train until the end of an attempt, or until somebody else has finished the run.

        Raises:
            LockedError: The run is locked, but nobody trains it.
        """
        deadline = time.monotonic() + _LOCKED_S
        while run_state(run).state is not RunState.FINISHED and not self._stopping():
            try:
                supervise_foreground(run, on_tick=self._look_for_stop)
            except LockedError:
                if run_state(run).state.is_live:
                    # A training goes on when its worker is killed, or when a user has resumed it: wait for its end.
                    deadline = time.monotonic() + _LOCKED_S
                elif time.monotonic() > deadline:
                    raise
                # Else: the lock of an attempt on a lost host is freed by its file system after a while.
                time.sleep(1)
            except RunError:
                if run_state(run).state is not RunState.FINISHED:
                    raise
            else:
                return

    def _look_for_stop(self) -> None:
        """Stop the training if the experiment was asked to stop."""
        if not self._asked and self.folder.stop_file.exists():
            self._asked = True
            os.kill(os.getpid(), signal.SIGTERM)

    def _evaluate(self, point: Point, run: str) -> bool:
        """Evaluate a finished run. Return False if that was interrupted; a failure can be repeated by the report."""
        study = self.folder.study_of(point)
        command = evaluation_command(study, study / "runs" / run)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            if self._stopping():
                process.terminate()
                process.wait()
                return False
            time.sleep(0.1)
        if process.returncode:
            self.say(f"{point.point_id}: its evaluation failed; patchcore report tries it again")
        return True

    def _stopping(self) -> bool:
        return self.stop.received is not None or self._asked or self.folder.stop_file.exists()

    def _interrupted(self, point_id: str) -> Outcome:
        if self.folder.stop_file.exists():
            self.folder.move(point_id, Place.CLAIMED, Place.OPEN)
        self.say(f"{point_id}: interrupted; it continues from its last checkpoint")
        return Outcome.INTERRUPTED

    def _end(self, point_id: str, reason: str) -> Outcome:
        self.folder.move(point_id, Place.CLAIMED, Place.ENDED, reason=reason)
        self.say(f"{point_id}: {reason}")
        return Outcome.ENDED


@contextmanager
def _alone(folder: ExperimentFolder) -> Iterator[None]:
    """Hold the lock of an owner; wait for the end of a worker that was lost."""
    deadline = time.monotonic() + _LOCKED_S
    while True:
        lock = FileLock(dispatcher_lock(folder.path, folder.owner), what=f"the points of {folder.owner}")
        try:
            lock.acquire()
        except LockedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            break
    try:
        yield
    finally:
        lock.release()


def host_is_bad(folder: ExperimentFolder) -> bool:
    """Return whether the last attempts on this host have all failed: the fault may be its own."""
    return socket.gethostname() in bad_hosts(folder)


def bad_hosts(folder: ExperimentFolder) -> list[str]:
    """Return the hosts on which the last attempts have all failed."""
    found = []
    for log in sorted((folder.path / "dispatchers").glob("*.attempts")):
        if log.read_text(encoding="utf-8").split()[-FAILURES_OF_A_HOST:] == ["failed"] * FAILURES_OF_A_HOST:
            found.append(log.stem)
    return found


def _note_on_host(folder: ExperimentFolder, *, failed: bool) -> None:
    with _host_log(folder).open("a", encoding="utf-8") as log:
        log.write("failed\n" if failed else "well\n")


def _host_log(folder: ExperimentFolder) -> Path:
    return folder.path / "dispatchers" / f"{socket.gethostname()}.attempts"


def main(argv: list[str] | None = None) -> int:
    """Run a worker as a process."""
    parser = argparse.ArgumentParser(prog="python -m patchcore.experiments.worker", description=__doc__)
    parser.add_argument("experiment")
    parser.add_argument("--owner", required=True)
    arguments = parser.parse_args(argv)
    try:
        folder, stop = ExperimentFolder(arguments.experiment, arguments.owner), StopSignal()
        with _alone(folder):
            outcome = Worker(folder, stop).work()
    except (PatchcoreError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return int(ExitCode.ERROR)
    return int({Outcome.DONE: ExitCode.DONE, Outcome.INTERRUPTED: ExitCode.STOPPED}.get(outcome, ExitCode.ERROR))


if __name__ == "__main__":
    sys.exit(main())
