"""Combines the events of all attempts of a run into series and records, and updates them with each new event."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from patchcore.runs.events import Event, EventKind, decode_event
from patchcore.runs.records import AlertRecord, CheckpointRecord, Series, StateRecord, ValidationRecord
from patchcore.runs.values import as_number
from patchcore.types import Float64Array

__all__ = ["History"]

_Record = TypeVar("_Record", ValidationRecord, CheckpointRecord)


class _Column:
    """A series that grows in place. Views returned earlier never change: a larger series gets a new buffer."""

    def __init__(self) -> None:
        self._buffer: Float64Array = np.empty((2, 64))
        self._length = 0

    def append(self, step: float, value: float) -> None:
        if self._length == self._buffer.shape[1]:
            wider = np.empty((2, 2 * self._length))
            wider[:, : self._length] = self._buffer
            self._buffer = wider
        self._buffer[:, self._length] = step, value
        self._length += 1

    def cut(self, step: int) -> None:
        """Remove all values from `step` on."""
        kept = self._buffer[:, : self._length]
        kept = kept[:, kept[0] < step]
        self._length = kept.shape[1]
        self._buffer = np.concatenate([kept, np.empty((2, max(64, self._length)))], axis=1)

    def view(self) -> Series:
        part = self._buffer[:, : self._length]
        part.flags.writeable = False
        return Series(part[0], part[1])


class History:
    """Collects events, attempt after attempt. A later attempt may replace records of earlier attempts."""

    def __init__(self) -> None:
        self.bad_lines = 0
        self.revision = 0
        self.step = 0
        self.epoch: int | None = None
        self.validations: list[ValidationRecord] = []
        self.checkpoints: list[CheckpointRecord] = []
        self.states: list[StateRecord] = []
        self.alerts: list[AlertRecord] = []
        self._columns: dict[str, _Column] = {}
        self._newest_seq: dict[int, int] = {}
        self._cuts: dict[int, int] = {}
        self._take: dict[str, Callable[[int, Event], None]] = {
            EventKind.METRIC: self._metric,
            EventKind.VALIDATION: self._validation,
            EventKind.CHECKPOINT: self._checkpoint,
            EventKind.STATE: self._state,
            EventKind.ALERT: self._alert,
        }

    def resumed(self, attempt: int, step: int) -> None:
        """Note that `attempt` records from `step` on: remove the records of earlier attempts from this step on."""
        if attempt in self._cuts:
            return
        self._cuts[attempt] = step
        self.revision += 1
        for column in self._columns.values():
            column.cut(step)
        self.validations = _before(self.validations, attempt, step)
        self.checkpoints = _before(self.checkpoints, attempt, step)
        if self.step >= step:
            self.step = max(step - 1, 0)

    def add(self, attempt: int, line: bytes) -> None:
        """Add one line of an attempt's events. Never raises: lines that cannot be decoded are counted."""
        try:
            event = decode_event(line)
        except ValueError:
            self.bad_lines += 1
            self.revision += 1
            return
        if event.seq <= self._newest_seq.get(attempt, -1):
            return  # read before: the file was rewritten from its start
        self._newest_seq[attempt] = event.seq
        take = self._take.get(event.kind)
        if take is None:
            return
        self.revision += 1
        if event.step is not None and not self._dropped(attempt, event):
            self.step, self.epoch = event.step, event.epoch if event.epoch is not None else self.epoch
        try:
            take(attempt, event)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
            self.bad_lines += 1

    def series(self) -> dict[str, Series]:
        """Return the series of each metric."""
        return {name: column.view() for name, column in self._columns.items()}

    def _dropped(self, attempt: int, event: Event) -> bool:
        return event.step is not None and any(
            later > attempt and event.step >= step for later, step in self._cuts.items()
        )

    def _metric(self, attempt: int, event: Event) -> None:
        if event.step is None or self._dropped(attempt, event):
            return
        for name, value in _numbers(event.data["values"]).items():
            self._columns.setdefault(name, _Column()).append(event.step, value)

    def _validation(self, attempt: int, event: Event) -> None:
        if event.step is None or self._dropped(attempt, event):
            return
        values, count = _numbers(event.data["values"]), event.data.get("n_cases")
        for name, value in values.items():
            self._columns.setdefault(name, _Column()).append(event.step, value)
        identity = str(event.data.get("validation_id", ""))
        if event.data.get("continued") is True and self.validations:
            # The values of many classes do not fit on one line.
            last = self.validations[-1]
            if (last.validation_id, last.attempt) == (identity, attempt):
                self.validations[-1] = replace(last, values={**last.values, **values})
                return
        record = ValidationRecord(
            step=event.step,
            epoch=event.epoch,
            validation_id=identity,
            values=values,
            n_cases=count if isinstance(count, int) else None,
            subset=str(event.data.get("subset", "all")),
            t=event.t,
            attempt=attempt,
        )
        self.validations = [v for v in self.validations if v.validation_id != record.validation_id] + [record]

    def _checkpoint(self, attempt: int, event: Event) -> None:
        if event.step is not None and not self._dropped(attempt, event):
            which, path = str(event.data["which"]), str(event.data["path"])
            self.checkpoints.append(CheckpointRecord(event.step, which, path, event.t, attempt))

    def _state(self, attempt: int, event: Event) -> None:
        reason = event.data.get("reason")
        reason = None if reason is None else str(reason)
        self.states.append(StateRecord(str(event.data["state"]), reason, event.step, event.t, attempt))

    def _alert(self, attempt: int, event: Event) -> None:
        remedy = event.data.get("remedy")
        alert = AlertRecord(
            level=str(event.data.get("level", "info")),
            message=str(event.data["message"]),
            remedy=None if remedy is None else str(remedy),
            step=event.step,
            t=event.t,
            attempt=attempt,
        )
        self.alerts.append(alert)


def _before(records: list[_Record], attempt: int, step: int) -> list[_Record]:
    return [record for record in records if record.attempt >= attempt or record.step < step]


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        str(name): math.nan if (number := as_number(value)) is None else number
        for name, value in values.items()
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    }
