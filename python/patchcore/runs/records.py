"""Defines the states of a run and the records that describe it. Plain values without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from patchcore.runs.events import ON_REQUEST, VAL_SELECTION
from patchcore.types import ExitCode, Float64Array

__all__ = [
    "Acknowledgement",
    "AlertRecord",
    "CheckpointRecord",
    "Request",
    "RunState",
    "RunSummary",
    "RunView",
    "Series",
    "StateRecord",
    "StateReport",
    "ValidationRecord",
    "Verb",
]


class RunState(StrEnum):
    """The state of a run, which is the state of its newest attempt."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FINISHED = "finished"
    FAILED = "failed"
    KILLED = "killed"
    OUT_OF_MEMORY = "out of memory"
    CRASHED = "crashed"
    ORPHANED = "orphaned"
    STALE = "stale"
    PRESUMED_CRASHED = "presumed crashed"
    STALLED = "stalled"

    @property
    def is_live(self) -> bool:
        """Whether a process works on the run, as far as can be known."""
        return self in _LIVE

    @property
    def is_over(self) -> bool:
        """Whether the newest attempt has ended, so that a new attempt may start."""
        return self in _OVER


_LIVE = frozenset(
    {
        RunState.STARTING,
        RunState.RUNNING,
        RunState.PAUSING,
        RunState.STOPPING,
        RunState.ORPHANED,
        RunState.STALE,
        RunState.STALLED,
    }
)
_OVER = frozenset(
    {
        RunState.PAUSED,
        RunState.STOPPED,
        RunState.FINISHED,
        RunState.FAILED,
        RunState.KILLED,
        RunState.OUT_OF_MEMORY,
        RunState.CRASHED,
        RunState.PRESUMED_CRASHED,
    }
)


class Verb(StrEnum):
    """The requests that a running trainer accepts."""

    CHECKPOINT = "checkpoint"
    VALIDATE = "validate"
    PAUSE = "pause"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class StateReport:
    """The state of a run and the facts behind it.

    Attributes:
        state: The state.
        reason: The reason in one sentence; None if the state needs no explanation.
        attempt: Number of the newest attempt, from 1; None if there is no attempt yet.
        since: When the attempt ended or last changed its state, in seconds since 1970 by the writer's clock; None if
            unknown.
        host: Host on which the newest attempt was started.
        trainer_pid: Id of the process on this host that holds the trainer's lock; 0 if the lock is held but the id is
            not known.
        supervisor_pid: The same for the supervisor's lock.
        exit_code: Exit code of the trainer; None if a signal ended it or it has not ended.
    """

    state: RunState
    reason: str | None = None
    attempt: int | None = None
    since: float | None = None
    host: str | None = None
    trainer_pid: int | None = None
    supervisor_pid: int | None = None
    exit_code: int | None = None

    @property
    def label(self) -> str:
        """State and reason on one line, for display."""
        return f"{self.state.value}: {self.reason}" if self.reason else self.state.value

    @property
    def run_exit_code(self) -> int:
        """Exit code for a command that waited for the run: 0 finished, 75 stopped or paused, else 1."""
        if self.state is RunState.FINISHED:
            return ExitCode.DONE
        if self.state in (RunState.STOPPED, RunState.PAUSED):
            return ExitCode.STOPPED
        return ExitCode.ERROR


@dataclass(frozen=True, slots=True)
class Series:
    """One metric over steps.

    Attributes:
        steps: float64 (N,), steps in the order of recording.
        values: float64 (N,), NaN if the recorded value was not finite.
    """

    steps: Float64Array
    values: Float64Array

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def last(self) -> float | None:
        """The newest finite value."""
        finite = np.flatnonzero(np.isfinite(self.values))
        return float(self.values[finite[-1]]) if len(finite) else None


@dataclass(frozen=True, slots=True)
class ValidationRecord:
    """One validation on whole volumes.

    Attributes:
        step: Step after which the validation ran.
        epoch: Epoch, or None.
        validation_id: Id of the validation; its cases are in ``cases/<validation_id>.jsonl``.
        values: Metric name → value; NaN if the value was not finite.
        n_cases: Number of cases.
        subset: Name of the set of cases; only validations on the same subset can be compared.
        t: Seconds since 1970 by the writer's clock.
        attempt: Number of the attempt that ran the validation.
    """

    step: int
    epoch: int | None
    validation_id: str
    values: Mapping[str, float]
    n_cases: int | None
    subset: str
    t: float
    attempt: int

    @property
    def dsc_mean(self) -> float:
        """Mean DSC over cases; NaN if it is not known."""
        return self.values.get("val/dsc_mean", float("nan"))

    @property
    def dsc_global(self) -> float:
        """DSC over all voxels of all cases; NaN if it is not known."""
        return self.values.get("val/dsc_global", float("nan"))


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A saved checkpoint, ``last`` or ``best``. `path` is relative to the run folder if the checkpoint is inside it."""

    step: int
    which: str
    path: str
    t: float
    attempt: int


@dataclass(frozen=True, slots=True)
class StateRecord:
    """A state that the trainer reported."""

    state: str
    reason: str | None
    step: int | None
    t: float
    attempt: int


@dataclass(frozen=True, slots=True)
class AlertRecord:
    """A message for the user; `level` is ``info``, ``warning`` or ``error``. Treat the text as untrusted input."""

    level: str
    message: str
    remedy: str | None
    step: int | None
    t: float
    attempt: int


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a running trainer, as stored in ``control/new``; `mono` is the monotonic clock of its boot."""

    id: str
    verb: Verb
    args: Mapping[str, Any]
    author: str
    t: float
    expires: float
    boot_id: str = ""
    mono: float | None = None


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The answer to a request.

    Attributes:
        id: Id of the request.
        verb: Verb of the request.
        outcome: ``accepted``, ``done``, ``refused``, ``expired`` or ``failed``.
        detail: The reason or the result, or None.
        by: Who answered: ``trainer`` or ``supervisor``.
        t: Seconds since 1970 by the clock of `by`.
        author: Who sent the request.
        args: Arguments of the request.
    """

    id: str
    verb: str
    outcome: str
    detail: str | None
    by: str
    t: float
    author: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the request was accepted or done."""
        return self.outcome in ("accepted", "done")


@dataclass(frozen=True, slots=True)
class RunView:
    """Everything that a reader knows about a run at one moment. Later polls do not change a view returned earlier.

    Attributes:
        run_id: Name of the run folder.
        path: The run folder.
        kind: ``train``, ``fine-tune``, ``evaluate`` …
        created: ISO 8601, UTC.
        config: Resolved configuration.
        plan: The plan of the run.
        parent: Id of the run that this run continues from, or None.
        state: State of the newest attempt.
        step: Newest known step; 0 before the first step.
        total_steps: Last step of the training, or None.
        epoch: Newest epoch, or None.
        eta_s: Remaining seconds as estimated by the trainer, or None.
        phase: What the trainer does now (``train``, ``validate``, ``checkpoint``, ``prepare`` …), or None.
        series: Metric name → its series.
        validations: Validations in order of time; a repeated validation replaces the earlier one.
        checkpoints: Checkpoints in order of time.
        states: States that the trainer reported, in order of time.
        alerts: Alerts in order of time.
        attempts: Number of attempts.
        system: Newest sample of GPU, CPU and RAM, or None.
        bad_lines: Number of lines that could not be read.
        behind: Whether more events are waiting to be read: poll again at once.
        revision: Increases whenever anything in the view except `system` changes.
    """

    run_id: str
    path: Path
    kind: str
    created: str
    config: Mapping[str, Any]
    plan: Mapping[str, Any]
    parent: str | None
    state: StateReport
    step: int = 0
    total_steps: int | None = None
    epoch: int | None = None
    eta_s: float | None = None
    phase: str | None = None
    series: Mapping[str, Series] = field(default_factory=dict)
    validations: tuple[ValidationRecord, ...] = ()
    checkpoints: tuple[CheckpointRecord, ...] = ()
    states: tuple[StateRecord, ...] = ()
    alerts: tuple[AlertRecord, ...] = ()
    attempts: int = 0
    system: Mapping[str, Any] | None = None
    bad_lines: int = 0
    behind: bool = False
    revision: int = 0

    @property
    def last_validation(self) -> ValidationRecord | None:
        """The newest validation."""
        return self.validations[-1] if self.validations else None

    @property
    def best_validation(self) -> ValidationRecord | None:
        """The validation with the highest mean DSC, chosen among validations on the same cases.

        Only validations on all cases are compared. If there is none, validations on the subset of the newest validation
        are compared. All of them have the same number of cases as the newest one. Validations on request do not take
        part. Of a flexible network it is the one with the highest mean over its patch sizes: its weights are kept.
        """
        scheduled = [v for v in self.validations if not v.subset.endswith(ON_REQUEST)]
        if not scheduled:
            return None
        whole = [v for v in scheduled if v.subset == "all"]
        newest = whole[-1] if whole else scheduled[-1]
        same = [
            v for v in scheduled if (v.subset, v.n_cases) == (newest.subset, newest.n_cases) and np.isfinite(v.dsc_mean)
        ]
        return max(same, key=lambda v: v.values.get(VAL_SELECTION, v.dsc_mean), default=None)

    def last(self, metric: str) -> float | None:
        """Return the newest finite value of a metric, or None."""
        series = self.series.get(metric)
        return series.last if series is not None else None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Summary of a run for a list of runs. It is made without reading the events.

    Attributes:
        run_id: Name of the run folder.
        path: The run folder.
        kind: ``train`` …; ``unreadable`` if ``run.json`` is damaged.
        created: ISO 8601, UTC.
        state: State of the run, as returned by :func:`patchcore.runs.run_state`.
        step: Newest step.
        total_steps: Last step of the training, or None.
        epoch: Newest epoch, or None.
        eta_s: Remaining seconds, or None.
        best_dsc_mean: Highest mean validation DSC so far, or None.
        attempts: Number of attempts.
        parent: Id of the run that this run continues from, or None.
        patch_size: Patch size of the plan, or None.
    """

    run_id: str
    path: Path
    kind: str
    created: str
    state: StateReport
    step: int = 0
    total_steps: int | None = None
    epoch: int | None = None
    eta_s: float | None = None
    best_dsc_mean: float | None = None
    attempts: int = 0
    parent: str | None = None
    patch_size: tuple[int, ...] | None = None
