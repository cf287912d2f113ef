"""The record of an ended attempt, for endings that a test cannot easily cause."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from patchcore.runs.ending import exit_record
from patchcore.runs.paths import RunPaths


@pytest.mark.parametrize("number", range(1, 65))
def test_every_signal_leaves_a_record(tmp_path: Path, number: int) -> None:
    record = exit_record(RunPaths(tmp_path), 1, -number, asked_by=None, memory_ran_out=False)
    known = {item.value: item.name for item in signal.Signals}
    assert record["signal"] == known.get(number, f"signal {number}")
    assert record["code"] is None
    assert record["signal"] in record["reason"]
