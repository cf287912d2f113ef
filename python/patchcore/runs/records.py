"""What is known of a run: its states, and the records that a reader hands out. Plain values, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

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
    """The state of a run: that of its newest attempt."""

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
        """Whether a process works on the run, as far as is known."""
        return self in _LIVE

    @property
    def is_over(self) -> bool:
        """Whether the newest attempt has ended; a new one may start."""
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
    """What can be asked of a running trainer."""

    CHECKPOINT = "checkpoint"
    VALIDATE = "validate"
    PAUSE = "pause"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class StateReport:
    """The state of a run and how it is known.

    Attributes:
        state: The state.
        reason: Why, in one sentence; None where the state says it all.
        attempt: Number of the newest attempt, from 1; None while there is none.
        since: When the attempt ended or last changed state, seconds since 1970 by the writer's clock; None:
            unknown.
        host: Where the newest attempt was started.
        trainer_pid: The process that holds the trainer's lock, on this host; 0 where it cannot be named.
        supervisor_pid: The same for the supervisor's lock.
        exit_code: Of an attempt that ended by itself.
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
        """The state and its reason on one line, as shown to people."""
        return f"{self.state.value}: {self.reason}" if self.reason else self.state.value

    @property
    def run_exit_code(self) -> int:
        """What a command that waited for the run exits with: 0 finished, 75 stopped or paused, else 1."""
        if self.state is RunState.FINISHED:
            return ExitCode.DONE
        if self.state in (RunState.STOPPED, RunState.PAUSED):
            return ExitCode.STOPPED
        return ExitCode.ERROR


@dataclass(frozen=True, slots=True)
class Series:
    """One metric over steps.

    Attributes:
        steps: float64 (N,), as recorded, in order of time.
        values: float64 (N,), NaN where the value was not finite.
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
        step: Step after which it ran.
        epoch: Epoch, or None.
        validation_id: Names ``cases/<validation_id>.jsonl``.
        values: Metric name → value; NaN where it was not finite.
        n_cases: Cases that it was computed on.
        subset: Which cases: only validations of one subset compare.
        t: Seconds since 1970 by the writer's clock.
        attempt: The attempt that ran it.
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
        """Mean DSC over cases; NaN where it is not known."""
        return self.values.get("val/dsc_mean", float("nan"))

    @property
    def dsc_global(self) -> float:
        """DSC over all voxels of all cases; NaN where it is not known."""
        return self.values.get("val/dsc_global", float("nan"))


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A checkpoint that was written, ``last`` or ``best``; `path` is relative where it lies in the run."""

    step: int
    which: str
    path: str
    t: float
    attempt: int


@dataclass(frozen=True, slots=True)
class StateRecord:
    """A state that the trainer told."""

    state: str
    reason: str | None
    step: int | None
    t: float
    attempt: int


@dataclass(frozen=True, slots=True)
class AlertRecord:
    """Something to know; `level` is ``info``, ``warning`` or ``error``. The text is untrusted."""

    level: str
    message: str
    remedy: str | None
    step: int | None
    t: float
    attempt: int


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a running trainer, as it lies in ``control/new``."""

    id: str
    verb: Verb
    args: Mapping[str, Any]
    author: str
    t: float
    expires: float
    boot_id: str = ""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """How a request ended.

    Attributes:
        id: The request's.
        verb: The request's.
        outcome: ``accepted``, ``done``, ``refused``, ``expired`` or ``failed``.
        detail: Why, or what came of it.
        by: ``trainer`` or ``supervisor``.
        t: Seconds since 1970 by the clock of `by`.
        author: Who asked.
        args: What was asked for.
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
        """Whether the request was taken on."""
        return self.outcome in ("accepted", "done")


@dataclass(frozen=True, slots=True)
class RunView:
    """All that a reader knows of a run at one moment. Later polls never change a view handed out before.

    Attributes:
        run_id: Name of the run folder.
        path: The run folder.
        kind: ``train``, ``fine-tune``, ``evaluate`` …
        created: ISO 8601, UTC.
        config: Resolved configuration.
        plan: The plan that the run was made with.
        parent: Id of the run that it continues from, or None.
        state: The state of the newest attempt.
        step: Newest step that is known; 0 before the first.
        total_steps: Where training ends, or None.
        epoch: Newest epoch, or None.
        eta_s: Seconds to the end, by the trainer, or None.
        phase: What the trainer is at (``train``, ``validate``, ``checkpoint``, ``prepare`` …), or None.
        series: Metric name → its series.
        validations: In order of time; a repeated validation replaces the one it repeats.
        checkpoints: In order of time.
        states: What the trainer told of its state, in order of time.
        alerts: In order of time.
        attempts: How many there are.
        system: Newest sample of GPU, CPU and RAM, or None.
        bad_lines: Lines that could not be read.
        behind: Whether more is there to read at once.
        revision: Rises whenever anything in the view but `system` changed.
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
        """The validation with the highest mean DSC: of those on all cases, or while there is none, of the newest's."""
        if not self.validations:
            return None
        whole = [v for v in self.validations if v.subset == "all"]
        newest = whole[-1] if whole else self.validations[-1]
        same = [
            v
            for v in self.validations
            if (v.subset, v.n_cases) == (newest.subset, newest.n_cases) and np.isfinite(v.dsc_mean)
        ]
        return max(same, key=lambda v: v.dsc_mean, default=None)

    def last(self, metric: str) -> float | None:
        """Newest finite value of a metric, or None."""
        series = self.series.get(metric)
        return series.last if series is not None else None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One line of a list of runs, read without its events.

    Attributes:
        run_id: Name of the run folder.
        path: The run folder.
        kind: ``train`` …; ``unreadable`` where ``run.json`` is damaged.
        created: ISO 8601, UTC.
        state: As for one look; see :func:`patchcore.runs.run_state`.
        step: Newest step.
        total_steps: Where training ends, or None.
        epoch: Newest epoch.
        eta_s: Seconds to the end, or None.
        best_dsc_mean: Highest mean validation DSC so far, or None.
        attempts: How many.
        parent: Id of the run that it continues from, or None.
        patch_size: Of the plan, or None.
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
