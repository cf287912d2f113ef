"""Shared by several integration tests: a trainer that runs in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tiny_training import begin_attempt

from patchcore.runs import RunReader


def start(run: Path, attempt: int, **overrides: Any) -> subprocess.Popen[bytes]:
    """Begin an attempt and start its trainer in a process of its own."""
    begin_attempt(run, attempt, **overrides)
    with (run / "attempts" / str(attempt) / "stdout.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "patchcore.training.trainer", str(run), str(attempt)],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"OMP_WAIT_POLICY": "passive"},
        )


def step_of(run: Path) -> int:
    """Return the last step that the run has recorded."""
    return RunReader(run).poll().step


def wait_for_step(run: Path, process: subprocess.Popen[bytes], step: int) -> None:
    """Wait until a run that is being trained has recorded a step."""
    deadline = time.monotonic() + 120
    while step_of(run) < step:
        assert process.poll() is None, (run / "attempts" / "1" / "stdout.log").read_text(encoding="utf-8")
        assert time.monotonic() < deadline
        time.sleep(0.01)


def finish(run: Path, attempt: int, **overrides: Any) -> None:
    """Train an attempt to its end, which must be a success."""
    process = start(run, attempt, **overrides)
    assert process.wait(timeout=240) == 0, (run / "attempts" / str(attempt) / "stdout.log").read_text(encoding="utf-8")
