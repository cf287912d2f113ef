"""Reads, writes and controls run folders: events, state, requests and supervisor. Does not import torch.

A trainer and its supervisor write to the run folder; other programs read it and put request files into it. Submodules
are imported on first use, so that the supervisor process needs little memory.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchcore.runs.control import request, terminate_orphan, wait_for
    from patchcore.runs.launch import new_run, start_attempt, supervise_foreground
    from patchcore.runs.listing import list_runs, resolve_run
    from patchcore.runs.reader import RunReader, read_cases, whole_view
    from patchcore.runs.records import (
        Acknowledgement,
        AlertRecord,
        CheckpointRecord,
        Request,
        RunState,
        RunSummary,
        RunView,
        Series,
        StateRecord,
        StateReport,
        ValidationRecord,
        Verb,
    )
    from patchcore.runs.state import StateWatcher, run_state
    from patchcore.runs.writer import RunWriter

_HOME = {
    "Acknowledgement": "records",
    "AlertRecord": "records",
    "CheckpointRecord": "records",
    "Request": "records",
    "RunReader": "reader",
    "RunState": "records",
    "RunSummary": "records",
    "RunView": "records",
    "RunWriter": "writer",
    "Series": "records",
    "StateRecord": "records",
    "StateReport": "records",
    "StateWatcher": "state",
    "ValidationRecord": "records",
    "Verb": "records",
    "list_runs": "listing",
    "new_run": "launch",
    "read_cases": "reader",
    "request": "control",
    "resolve_run": "listing",
    "run_state": "state",
    "start_attempt": "launch",
    "supervise_foreground": "launch",
    "terminate_orphan": "control",
    "wait_for": "control",
    "whole_view": "reader",
}

__all__ = [
    "Acknowledgement",
    "AlertRecord",
    "CheckpointRecord",
    "Request",
    "RunReader",
    "RunState",
    "RunSummary",
    "RunView",
    "RunWriter",
    "Series",
    "StateRecord",
    "StateReport",
    "StateWatcher",
    "ValidationRecord",
    "Verb",
    "list_runs",
    "new_run",
    "read_cases",
    "request",
    "resolve_run",
    "run_state",
    "start_attempt",
    "supervise_foreground",
    "terminate_orphan",
    "wait_for",
    "whole_view",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
