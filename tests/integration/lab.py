"""Shared by tests of the life of a run: runs of a fake trainer, with real supervisors and real signals."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from patchcore.experiments.folder import ExperimentFolder
from patchcore.locks import lock_holder
from patchcore.processes import process_start
from patchcore.runs import RunReader, RunState, StateReport, new_run, run_state, start_attempt
from patchcore.runs.paths import RunPaths
from patchcore.runs.process import send_signal

TESTS = Path(__file__).resolve().parents[1]
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent / "python")])}
LONG = 100_000


class Lab:
    """Creates runs of the fake trainer, and kills the processes that a failed test leaves behind."""

    def __init__(self, study: Path) -> None:
        self.study = study
        self.runs: list[Path] = []

    def run(self, **config: Any) -> Path:
        config = {"steps": LONG, "step_s": 0.01} | config
        run = new_run(
            self.study,
            kind="train",
            config=config,
            plan={},
            seed=0,
            slug="fake",
            argv=[],
            trainer="fake_trainer",
        )
        self.runs.append(run)
        return run

    def started(self, **config: Any) -> Path:
        run = self.run(**config)
        start_attempt(run, env=ENV)
        until(run, lambda report: report.state is RunState.RUNNING)
        return run

    def end(self) -> None:
        for run in self.runs:
            for lock in (RunPaths(run).trainer_lock, RunPaths(run).supervisor_lock):
                pid = lock_holder(lock)
                started = process_start(pid) if pid else None
                if pid and started and pid != os.getpid():
                    send_signal(pid, started, signal.SIGKILL)


def until(run: Path, is_so: Callable[[StateReport], bool]) -> StateReport:
    deadline = time.monotonic() + 60
    while True:
        report = run_state(run)
        if is_so(report):
            return report
        assert time.monotonic() < deadline, f"still {report.label}"
        time.sleep(0.02)


def wait_for(is_so: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.02)


def over(report: StateReport) -> bool:
    return report.state.is_over


def pids(run: Path) -> tuple[int, int]:
    report = run_state(run)
    assert report.trainer_pid
    assert report.supervisor_pid
    return report.supervisor_pid, report.trainer_pid


def exit_record(run: Path, attempt: int = 1) -> dict[str, Any]:
    return json.loads(RunPaths(run).exit(attempt).read_text(encoding="utf-8"))


def audit(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in RunPaths(run).audit.read_text(encoding="utf-8").splitlines()]


def losses(run: Path) -> list[tuple[float, float]]:
    series = RunReader(run).poll().series.get("train/loss")
    if series is None:
        return []
    return list(zip(series.steps.tolist(), series.values.tolist(), strict=True))


def kill_tree(pid: int) -> None:
    """Kill a process and all that it has started, at once."""
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def processes_of(folder: ExperimentFolder) -> list[int]:
    """Return the processes of Slurm's tasks and of their trainers, but not Slurm's own."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if process.name.isdigit() and any(str(folder.study).encode() in part for part in command):
            found.append(int(process.name))
    return sorted(set(found) - {os.getpid()})
