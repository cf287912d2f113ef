"""Follows a run: each poll reads what was added since the last poll and returns a view of the whole run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from patchcore.errors import RunError
from patchcore.runs.history import History
from patchcore.runs.paths import RunPaths, read_object
from patchcore.runs.records import RunView
from patchcore.runs.state import StateWatcher
from patchcore.runs.tail import LineTail
from patchcore.runs.values import as_count, as_number, as_text
from patchcore.types import PathLike

__all__ = ["MOST_BYTES", "RunReader", "read_cases", "whole_view"]

MOST_BYTES: Final = 4 << 20
_SYSTEM_TAIL_BYTES: Final = 64 << 10


class RunReader:
    """Follows one run. Do not share a reader between threads: readers are cheap, so make one per thread.

    Args:
        run: The run folder.

    Raises:
        RunError: The folder is not a run folder.

    Example:
        >>> from patchcore.runs import RunReader  # doctest: +SKIP
        >>> view = RunReader("study/runs/20260101T000000-train-1a2b3c").poll()  # doctest: +SKIP
        >>> view.state.label, view.step, view.last("train/loss")  # doctest: +SKIP
        ('running', 1200, 0.41)
    """

    def __init__(self, run: PathLike) -> None:
        self.paths = RunPaths(run)
        self._record = self.paths.require()
        self._watcher = StateWatcher(run)
        self._history = History()
        self._tails: dict[int, LineTail] = {}
        self._read_completely: set[int] = set()
        self._resumed: set[int] = set()
        self._seen: tuple[Any, ...] = ()
        self._revision = 0

    def poll(self, *, most_bytes: int = MOST_BYTES) -> RunView:
        """Read at most `most_bytes` of new events and return a view of everything read so far.

        Raises:
            RunError: The run folder no longer exists.
        """
        if not self.paths.run_json.exists():
            raise RunError("the run folder no longer exists", path=self.paths.root)
        # Read the state before the events: if the state says that the run has ended, all its events are then read.
        report = self._watcher.look()
        newest = self.paths.newest_attempt() or 0
        behind = self._read_events(newest, most_bytes)
        status = read_object(self.paths.status) or {}
        history = self._history
        live = report.state.is_live and status.get("attempt") == newest
        step = as_count(status.get("step")) if live else None
        epoch = as_count(status.get("epoch")) if live else None
        phase, eta_s = (status.get("phase"), status.get("eta_s")) if live else (None, None)
        overlong = sum(tail.overlong for tail in self._tails.values())
        progress = (step, epoch, phase, eta_s, status.get("total_steps"))
        shown = (report, history.revision, progress, overlong, behind)
        if shown != self._seen:
            self._seen = shown
            self._revision += 1
        record = self._record
        return RunView(
            run_id=self.paths.root.name,
            path=self.paths.root,
            kind=str(record.get("kind", "")),
            created=str(record.get("created", "")),
            config=_mapping(record.get("config")),
            plan=_mapping(record.get("plan")),
            parent=as_text(record.get("parent")),
            state=report,
            step=max(step or 0, history.step),
            total_steps=as_count(status.get("total_steps")),
            epoch=history.epoch if epoch is None else epoch,
            eta_s=as_number(eta_s),
            phase=as_text(phase),
            series=history.series(),
            validations=tuple(history.validations),
            checkpoints=tuple(history.checkpoints),
            states=tuple(history.states),
            alerts=tuple(history.alerts),
            attempts=newest,
            system=self._newest_system(newest),
            bad_lines=history.bad_lines + overlong,
            behind=behind,
            revision=self._revision,
        )

    def _read_events(self, newest: int, most_bytes: int) -> bool:
        """Read attempt after attempt. Return whether more events are waiting to be read."""
        for attempt in range(1, newest + 1):
            if attempt in self._read_completely or not self._note_resume(attempt):
                continue
            tail = self._tails.setdefault(attempt, LineTail(self.paths.events(attempt)))
            while True:
                if most_bytes <= 0:
                    return True
                lines, read = tail.read(most_bytes)
                most_bytes -= read
                for line in lines:
                    self._history.add(attempt, line)
                if not read:
                    break
            if attempt < newest and self._note_resume(attempt + 1):
                self._read_completely.add(attempt)  # the next trainer holds the lock: this attempt is complete
        return False

    def _note_resume(self, attempt: int) -> bool:
        """Return whether the first step of an attempt is known. Its trainer writes this step before its first event."""
        if attempt not in self._resumed:
            step = (read_object(self.paths.start(attempt)) or {}).get("resumed_from_step")
            if not isinstance(step, int):
                return False
            self._resumed.add(attempt)
            self._history.resumed(attempt, step)
        return True

    def _newest_system(self, attempt: int) -> dict[str, Any] | None:
        try:
            with self.paths.system(attempt).open("rb") as handle:
                handle.seek(0, 2)
                handle.seek(max(0, handle.tell() - _SYSTEM_TAIL_BYTES))
                lines = handle.read().split(b"\n")[:-1]
        except OSError:
            return None
        for line in reversed(lines[-2:]):
            try:
                sample = json.loads(line)
            except ValueError:
                continue
            if isinstance(sample, dict):
                return sample
        return None


def whole_view(run: PathLike) -> RunView:
    """Return what a run has recorded until now, all of it. A reader that polls gets it in parts.

    Raises:
        RunError: The folder is not a run folder.
    """
    reader = RunReader(run)
    view = reader.poll()
    while view.behind:
        view = reader.poll()
    return view


def read_cases(run: PathLike, validation_id: str) -> list[dict[str, Any]]:
    """Return the records of the cases of a validation, sorted by case id.

    If a case has several records, the last one is returned.

    Args:
        run: The run folder.
        validation_id: Id of the validation, from a :class:`ValidationRecord`.

    Raises:
        FileNotFoundError: The validation has recorded no case.
    """
    folder = RunPaths(run).cases
    name = Path(f"{validation_id}.jsonl").name
    cases: dict[str, dict[str, Any]] = {}
    for line in (folder / name).read_bytes().split(b"\n")[:-1]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("case_id"), str):
            cases[record["case_id"]] = record
    return [cases[name] for name in sorted(cases)]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
