"""The watcher: a thread that reads the study and sends the app a snapshot whenever something has changed.

It polls the shown run every 250 ms and everything else every 2 s. An error does not end the app: the watcher puts it
into the snapshot as text and tries again in the next round.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchcore.runs import RunReader, RunSummary, RunView, StateWatcher
    from patchcore.tui.study_facts import StudyFacts, StudyReader

__all__ = ["Snapshot", "Watcher"]

SHOWN_PERIOD_S = 0.25
OTHERS_PERIOD_S = 2.0


@dataclass(frozen=True)
class Snapshot:
    """Everything that the dashboard shows at one moment.

    Attributes:
        study: Contents of the study's files; None before the first read.
        runs: All runs, newest first.
        run: The shown run, or None.
        cases: Records per case of the last validation of the shown run.
        role: What the shown run and its ancestors have done with its validation cases; empty if it is not known.
        problem: Error while reading, or None.
    """

    study: StudyFacts | None = None
    runs: tuple[RunSummary, ...] = ()
    run: RunView | None = None
    cases: tuple[Mapping[str, Any], ...] = ()
    role: str = ""
    problem: str | None = None


class Watcher:
    """Reads a study until it is stopped.

    Args:
        study: The study folder.
        deliver: Called with each new snapshot, in the watcher thread.
    """

    def __init__(self, study: Path, deliver: Callable[[Snapshot], object]) -> None:
        self._study = study
        self._deliver = deliver
        self._wake = threading.Event()
        self._stopped = False
        self._rescan = False
        self._selected: Path | None = None
        self._reader: RunReader | None = None
        self._reading: Path | None = None
        self._study_reader: StudyReader | None = None
        self._states: dict[Path, StateWatcher] = {}
        self._cases_key: tuple[Path, str, int] | None = None

    def select(self, run: Path | None) -> None:
        """Show this run from now on. None: show the newest run."""
        self._selected = run
        self._wake.set()

    def rescan(self) -> None:
        """Look for new runs immediately."""
        self._rescan = True
        self._wake.set()

    def stop(self) -> None:
        """Make :meth:`watch` return at its next round, or immediately if it waits."""
        self._stopped = True
        self._wake.set()

    def watch(self) -> None:
        """Read and deliver snapshots until stopped. Call it in a separate thread."""
        sent: Snapshot | None = None
        now = Snapshot()
        others_due = 0.0
        while not self._stopped:
            self._wake.clear()
            problems = []
            if self._rescan or time.monotonic() >= others_due:
                self._rescan = False
                others_due = time.monotonic() + OTHERS_PERIOD_S
                now, problem = self._look(now, self._with_study)
                problems.append(problem)
                now, problem = self._look(now, self._with_runs)
                problems.append(problem)
            now, problem = self._look(now, self._with_shown)
            problems.append(problem)
            if problem is not None and now.run is not None and now.run.path != self._reading:
                now = replace(now, run=None, cases=())  # show nothing instead of the curves of another run
            problem = next(filter(None, problems), None)
            now = replace(now, problem=problem)
            if not self._stopped and (sent is None or _differ(sent, now)):
                self._deliver(now)
                sent = now
            behind = now.run is not None and now.run.behind
            self._wake.wait(0.01 if behind else SHOWN_PERIOD_S)

    def _look(self, now: Snapshot, step: Callable[[Snapshot], Snapshot]) -> tuple[Snapshot, str | None]:
        try:
            return step(now), None
        except Exception as error:  # shown to the user; the next round may succeed
            return now, f"{type(error).__name__}: {error}"

    def _with_study(self, now: Snapshot) -> Snapshot:
        if self._study_reader is None:
            from patchcore.tui.study_facts import StudyReader

            self._study_reader = StudyReader(self._study)
        return replace(now, study=self._study_reader.poll())

    def _with_runs(self, now: Snapshot) -> Snapshot:
        from patchcore.runs import StateWatcher, list_runs

        runs = list_runs(self._study)
        # A stale heartbeat needs two looks to be detected, so each watcher is kept for the next round.
        watchers = {run.path: self._states.get(run.path) or StateWatcher(run.path) for run in runs}
        self._states = watchers
        return replace(
            now,
            runs=tuple(
                replace(run, state=watchers[run.path].look()) if run.state.state.is_live else run for run in runs
            ),
        )

    def _with_shown(self, now: Snapshot) -> Snapshot:
        from patchcore.runs import RunReader, read_cases
        from patchcore.runs.seen import validation_role

        path = self._selected or (now.runs[0].path if now.runs else None)
        if path is None:
            return replace(now, run=None, cases=())
        if self._reader is None or path != self._reading:
            self._reader, self._reading = None, path
            self._reader = RunReader(path)
        view = self._reader.poll()
        cases, role = now.cases, now.role
        validation = view.last_validation
        key = (path, validation.validation_id, validation.attempt) if validation else None
        if key != self._cases_key:
            cases, role = (), ""
            if validation is not None:
                with suppress(FileNotFoundError):  # no case is recorded yet
                    cases = tuple(read_cases(path, validation.validation_id))
                role = validation_role(path)
            self._cases_key = key
        # Update the shown run in the list too, so that the list does not lag behind the curves.
        runs = tuple(
            replace(run, state=view.state, step=view.step, total_steps=view.total_steps, eta_s=view.eta_s)
            if run.path == path
            else run
            for run in now.runs
        )
        return replace(now, run=view, cases=cases, role=role, runs=runs)


def _differ(old: Snapshot, new: Snapshot) -> bool:
    """Return whether two snapshots look different to the user. Arrays are compared by the revision of the view."""
    if (old.study is not new.study) or old.problem != new.problem or old.runs != new.runs:
        return True
    if old.run is None or new.run is None:
        return old.run is not new.run
    return (old.run.path, old.run.revision, old.run.behind) != (
        new.run.path,
        new.run.revision,
        new.run.behind,
    )
