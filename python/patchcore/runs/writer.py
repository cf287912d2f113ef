"""Writes the progress of a training (rank 0) to the run folder. No call waits for the disk or fails if it is full."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from patchcore.errors import RunError
from patchcore.files import write_json_atomic
from patchcore.locks import FileLock
from patchcore.processes import process_start
from patchcore.runs.events import VAL_DSC_MEAN, Event, EventKind, encode_event, next_seq, plain
from patchcore.runs.heartbeat import Heartbeat, StatusFile
from patchcore.runs.inbox import Inbox
from patchcore.runs.paths import HEARTBEAT_S, RunPaths, read_object
from patchcore.runs.records import Request, RunState, Verb
from patchcore.runs.telemetry import LineFile, Telemetry
from patchcore.types import PathLike

__all__ = ["RunWriter"]

_EVENTS: Final = "events"
_LOOK_S: Final = 0.1
_METRICS_PER_LINE: Final = 48
_NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}")
_FINAL: Final = frozenset(
    {RunState.FINISHED, RunState.STOPPED, RunState.PAUSED, RunState.FAILED, RunState.OUT_OF_MEMORY}
)


class RunWriter:
    """Writes one attempt of a run: its events, cases and heartbeat. A context manager, only for rank 0.

    A trainer calls ``state("running")`` when its loop starts. Its last reported state is ``finished``, ``stopped``,
    ``paused``, ``failed`` or ``out of memory``, with exit code 0, 75, 75, 1 or 1. If an exception leaves the ``with``
    block and no final state was reported, ``failed`` is reported.

    Args:
        run: The run folder.
        attempt: Number of the attempt. The supervisor must have created its folder.
        resumed_from_step: The first step that this attempt records. Records of earlier attempts from this step on are
            no longer valid. If a step is the number of completed steps, this is the checkpoint's step + 1.
        versions: Name → version, for comparison when the run is resumed (torch, the device).
        threads: Number of CPU threads that the trainer uses.
        heartbeat_s: Seconds between two snapshots.
        capacity: Maximum number of events that wait for a slow disk.

    Raises:
        LockedError: Another trainer works on the run.
        RunError: The folder of the attempt does not exist, or a later attempt has begun.
        OSError: The folder cannot be written.

    Example:
        >>> from patchcore.runs import RunWriter  # doctest: +SKIP
        >>> with RunWriter(run, 1) as writer:  # doctest: +SKIP
        ...     writer.state("running")
        ...     writer.metric(1, 0, {"train/loss": 0.7})
        ...     writer.state("finished")
    """

    def __init__(
        self,
        run: PathLike,
        attempt: int,
        *,
        resumed_from_step: int = 0,
        versions: Mapping[str, str] | None = None,
        threads: int | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        capacity: int = 8192,
    ) -> None:
        self.paths = RunPaths(run)
        self.attempt = attempt
        self._pid = os.getpid()
        self._closed = False
        if not self.paths.attempt(attempt).is_dir():
            raise RunError(
                f"there is no attempt {attempt}", path=self.paths.root, remedy="start the attempt with the supervisor"
            )
        self._lock = FileLock(self.paths.trainer_lock, what="the trainer's lock")
        self._lock.acquire()
        try:
            # The supervisor of this attempt may have been killed while this process was loading, and the run resumed.
            newest = self.paths.newest_attempt()
            if newest is not None and newest > attempt:
                raise RunError(f"attempt {attempt} is over: attempt {newest} has begun", path=self.paths.root)
            self._complete_start(resumed_from_step, versions, threads)
            events = LineFile(self.paths.events(attempt))
        except BaseException:
            self._lock.release()
            raise
        self._seq = next_seq(self.paths.events(attempt))
        self._guard = threading.Lock()
        self._state: tuple[RunState, str | None, float] = (RunState.STARTING, None, time.time())
        self._status: dict[str, Any] = dict.fromkeys(("step", "total_steps", "epoch", "eta_s", "phase"))
        self._status |= self._carried_over(resumed_from_step)
        self._last_sign = self._epoch_began = time.monotonic()
        self._next_look = 0.0
        self._handed_out: set[str] = set()
        self._inbox = Inbox(self.paths, by="trainer")
        self._case_files: set[str] = set()
        self._telemetry = Telemetry(
            {_EVENTS: events}, self._open_cases, on_recovery=self._report_gap, capacity=capacity
        )
        self._heartbeat = Heartbeat(
            StatusFile(self.paths, attempt, by="trainer"), self._snapshot, interval_s=heartbeat_s
        )

    def metric(self, step: int, epoch: int | None, values: Mapping[str, float]) -> None:
        """Record the metrics of a step, named as in :mod:`patchcore.runs.events`. Dropped if the disk is too slow."""
        self._advance(step, epoch)
        names = list(values)
        for start in range(0, len(names), _METRICS_PER_LINE):
            part = {name: values[name] for name in names[start : start + _METRICS_PER_LINE]}
            self._put(EventKind.METRIC, step, epoch, {"values": part}, keep=False)

    def validation(
        self,
        step: int,
        epoch: int | None,
        validation_id: str,
        values: Mapping[str, float],
        *,
        n_cases: int,
        subset: str = "all",
        counts: bool = True,
    ) -> None:
        """Record the result of a validation on whole volumes.

        Args:
            step: Step after which the validation ran.
            epoch: Epoch.
            validation_id: The same id as in the calls of :meth:`case`.
            values: Metric name → value; NaN if the value is not defined.
            n_cases: Number of cases.
            subset: Name of the set of cases; results on different subsets are not compared.
            counts: Whether the validation may become the best one; False for a validation on request.
        """
        self._advance(step, epoch)
        mean = plain(values.get(VAL_DSC_MEAN))
        with self._guard:
            best = self._status["best"]
            if counts and mean is not None and _is_new_best(best, mean, subset):
                self._status["best"] = {"step": step, "dsc_mean": mean, "subset": subset}
        names = list(values)
        for start in range(0, max(1, len(names)), _METRICS_PER_LINE):
            data = {
                "validation_id": _checked(validation_id),
                "n_cases": n_cases,
                "subset": subset,
                "values": {name: values[name] for name in names[start : start + _METRICS_PER_LINE]},
            }
            self._put(EventKind.VALIDATION, step, epoch, data | ({"continued": True} if start else {}))

    def case(
        self,
        validation_id: str,
        record: Mapping[str, Any],
        *,
        step: int | None = None,
        epoch: int | None = None,
    ) -> None:
        """Record the result of one case of a validation.

        Args:
            validation_id: Id of the validation; the cases are written to ``cases/<validation_id>.jsonl``. The first
                case of this attempt empties the file, because an interrupted validation is repeated completely.
            record: ``case_id`` and the results of the case. The file holds the full record; the event holds only its
                fields that are not lists or mappings.
            step: Step after which the validation runs.
            epoch: Epoch.
        """
        name = _checked(validation_id)
        whole = plain({"attempt": self.attempt} | dict(record))
        brief = {key: value for key, value in whole.items() if not isinstance(value, list | dict) and key != "attempt"}
        self._sign_of_life()
        self._telemetry.put(name, lambda: _json_line(whole), keep=True)
        self._put(EventKind.CASE, step, epoch, {"validation_id": name} | brief)

    def checkpoint(self, step: int, which: str, path: PathLike) -> None:
        """Record that a checkpoint, ``last`` or ``best``, is completely written at `path`."""
        place, root = Path(path).resolve(), self.paths.root.resolve()
        if place.is_relative_to(root):
            place = place.relative_to(root)
        self._put(
            EventKind.CHECKPOINT,
            step,
            None,
            {"which": which, "path": str(place)},
        )

    def state(self, state: RunState | str, reason: str | None = None) -> None:
        """Record the state of the trainer. The last state before :meth:`close` is the final state of the attempt."""
        state = RunState(state)
        with self._guard:
            self._state = (state, reason, time.time())
        self._put(
            EventKind.STATE,
            self._status["step"],
            self._status["epoch"],
            {"state": state.value, "reason": reason},
        )
        self._heartbeat.beat_now()

    def alert(self, level: str, message: str, remedy: str | None = None) -> None:
        """Record a message for the user; `level` is ``info``, ``warning`` or ``error``."""
        if level not in ("info", "warning", "error"):
            raise ValueError(f"level {level!r} is not one of info, warning, error")
        data = {"level": level, "message": message, "remedy": remedy}
        self._put(EventKind.ALERT, self._status["step"], self._status["epoch"], data)

    def progress(
        self,
        *,
        step: int | None = None,
        total_steps: int | None = None,
        epoch: int | None = None,
        eta_s: float | None = None,
        phase: str | None = None,
    ) -> None:
        """Update the progress in ``status.json`` (there is no event). Arguments that are None keep their old value."""
        self._advance(step, epoch)
        given = {"total_steps": total_steps, "eta_s": eta_s, "phase": phase}
        with self._guard:
            changed = phase is not None and phase != self._status["phase"]
            self._status |= {key: value for key, value in given.items() if value is not None}
        if changed:
            self._heartbeat.beat_now()

    def requests(self) -> list[Request]:
        """Return the new requests since the last call, each request once. Checks at most every 100 ms."""
        self._sign_of_life()
        now = time.monotonic()
        if now < self._next_look:
            return []
        self._next_look = now + _LOOK_S
        fresh = [request for request in self._inbox.pending() if request.id not in self._handed_out]
        self._handed_out |= {request.id for request in fresh}
        return fresh

    def acknowledge(self, request: Request, outcome: str, detail: str | None = None) -> None:
        """Answer a request: ``accepted``, ``done``, ``refused`` or ``failed``.

        If a stop or pause is accepted, the state ``stopping`` or ``pausing`` is recorded, too.
        """
        if outcome not in ("accepted", "done", "refused", "failed"):
            raise ValueError(f"outcome {outcome!r} is not one of accepted, done, refused, failed")
        data = {"id": request.id, "verb": request.verb.value, "outcome": outcome, "detail": detail}
        self._put(EventKind.ACK, self._status["step"], self._status["epoch"], data)
        self._inbox.answer(request, outcome, detail)
        if outcome == "accepted" and request.verb in (Verb.STOP, Verb.PAUSE) and self._state[0] not in _FINAL:
            going = RunState.STOPPING if request.verb is Verb.STOP else RunState.PAUSING
            self.state(going, f"requested by {request.author}")

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until everything recorded so far is written. Return whether it is."""
        return self._telemetry.flush(timeout_s)

    @property
    def dropped(self) -> int:
        """Number of events lost because the disk was slow or full."""
        return self._telemetry.dropped

    def close(self, timeout_s: float = 10.0) -> None:
        """Refuse waiting requests, write the remaining events and release the lock.

        A second call does nothing, and so does a call in a forked process.
        """
        if self._closed or os.getpid() != self._pid:
            return
        for request in self._inbox.pending():
            self.acknowledge(request, "refused", "the trainer is ending")
        self._closed = True
        self._heartbeat.stop()
        self._telemetry.close(timeout_s)
        self._lock.release()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = error is not None and not (isinstance(error, SystemExit) and error.code in (0, None, 75))
        if failed and not self._closed and os.getpid() == self._pid and self._state[0] not in _FINAL:
            self.state(RunState.FAILED, f"{type(error).__name__}: {error}")
        self.close()

    def _put(
        self,
        kind: EventKind,
        step: int | None,
        epoch: int | None,
        data: Mapping[str, Any],
        *,
        keep: bool = True,
    ) -> None:
        if os.getpid() != self._pid:
            raise RunError("only the trainer's main process may write to the run, not a process forked from it")
        if self._closed:
            raise RunError("the writer is closed", path=self.paths.root)
        self._sign_of_life()
        event = Event(kind.value, 0, time.time(), time.monotonic(), step, epoch, plain(data))
        self._telemetry.put(_EVENTS, lambda: self._encode(event), keep=keep)

    def _encode(self, event: Event) -> bytes:
        # Events get their number when they are written: dropped events leave no gap, and numbers increase in the file.
        line = encode_event(replace(event, seq=self._seq))
        self._seq += 1
        return line

    def _advance(self, step: int | None, epoch: int | None) -> None:
        self._sign_of_life()
        with self._guard:
            if step is not None:
                self._status["step"] = int(step)
            if epoch is not None and epoch != self._status["epoch"]:
                now = time.monotonic()
                if self._status["epoch"] is not None:
                    self._status["epoch_s"] = now - self._epoch_began
                self._epoch_began = now
                self._status["epoch"] = int(epoch)

    def _sign_of_life(self) -> None:
        self._last_sign = time.monotonic()

    def _snapshot(self) -> dict[str, Any]:
        with self._guard:
            state, reason, since = self._state
            status = dict(self._status)
        return status | {
            "pid": self._pid,
            "state": state.value,
            "reason": reason,
            "since": since,
            "idle_s": time.monotonic() - self._last_sign,
            "dropped": self._telemetry.dropped,
            "write_error": self._telemetry.last_error,
        }

    def _report_gap(self, failed_s: float, dropped: int) -> None:
        why = self._telemetry.last_error
        message = f"events could not be written for {failed_s:.0f} s ({why}); {dropped} were dropped"
        data = {"level": "warning", "message": message, "remedy": "free disk space on the file system of the study"}
        event = Event(EventKind.ALERT.value, 0, time.time(), time.monotonic(), None, None, data)
        self._telemetry.put(_EVENTS, lambda: self._encode(event), keep=True)

    def _open_cases(self, name: str) -> LineFile:
        self.paths.cases.mkdir(exist_ok=True)
        file = LineFile(self.paths.cases / f"{name}.jsonl", fresh=name not in self._case_files)
        self._case_files.add(name)
        return file

    def add_to_start(self, facts: Mapping[str, Any]) -> None:
        """Add facts of the attempt to its ``start.json``: the hosts of its ranks, how its steps are compiled."""
        path = self.paths.start(self.attempt)
        write_json_atomic(path, (read_object(path) or {}) | dict(facts))

    def _complete_start(self, resumed_from_step: int, versions: Mapping[str, str] | None, threads: int | None) -> None:
        path = self.paths.start(self.attempt)
        start = read_object(path) or {"schema_version": 1, "attempt": self.attempt}
        start["trainer"] = {"pid": self._pid, "started": process_start(self._pid)}
        start["resumed_from_step"] = resumed_from_step
        start["threads"] = threads
        start["versions"] = {**start.get("versions", {}), **(versions or {})}
        write_json_atomic(path, start)

    def _carried_over(self, resumed_from_step: int) -> dict[str, Any]:
        """Return the best validation and the duration of an epoch from the previous attempt."""
        previous = read_object(self.paths.status) or {}
        best = previous.get("best")
        if not (isinstance(best, dict) and isinstance(best.get("step"), int) and best["step"] < resumed_from_step):
            best = None
        return {"best": best, "epoch_s": previous.get("epoch_s")}


def _is_new_best(best: Mapping[str, Any] | None, mean: float, subset: str) -> bool:
    """Return whether a validation is the new best. A best on all cases is never replaced by a result on a subset."""
    if best is None or best["subset"] != subset:
        return best is None or best["subset"] != "all"
    return bool(mean > best["dsc_mean"])


def _checked(validation_id: str) -> str:
    if not _NAME.fullmatch(validation_id) or validation_id == _EVENTS:
        raise ValueError(f"validation id {validation_id!r} is not valid: use letters, digits, dot, dash and underscore")
    return validation_id


def _json_line(record: Mapping[str, Any]) -> bytes:
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace") + b"\n"
