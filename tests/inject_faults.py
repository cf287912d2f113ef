"""Runs of a fake trainer on a file system that fails at random, ended in a random way, and what must hold afterwards.

    python tests/inject_faults.py --count 2000 --start 0

Each number is one scenario: shares of failing file operations for the trainer, its supervisor and a reader (see
``tests/faults/sitecustomize.py``), and one ending. Afterwards, with a file system that works again: no process is left,
the state is true, every file can be read, the checkpoint is at most one interval old, and a resume gives exactly the
values of a run that was never disturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS / "integration")]

from lab import ENV, losses  # noqa: E402

from patchcore.errors import PatchcoreError  # noqa: E402
from patchcore.locks import lock_holder  # noqa: E402
from patchcore.runs import RunReader, RunState, list_runs, new_run, request, run_state, start_attempt  # noqa: E402
from patchcore.runs.paths import RunPaths, read_object  # noqa: E402

INTERVAL = 10  # steps between two checkpoints of the fake trainer
ENDINGS = ("none", "signal all", "signal supervisor", "signal trainer", "request", "kill trainer", "kill supervisor")
SHARES = (0.0, 0.01, 0.05, 0.2)

READER = """
import sys, time
from pathlib import Path
from patchcore.tui.watcher import Watcher
shown = []
watcher = Watcher(Path(sys.argv[1]), shown.append)
import threading
threading.Timer(float(sys.argv[2]), watcher.stop).start()
watcher.watch()
"""


class Broken(AssertionError):  # noqa: N818 - what was found, not a mistake
    """What a scenario found."""


def scenario(root: Path, seed: int) -> str:
    """Run one scenario and return what happened, in words.

    Raises:
        Broken: Something that must hold does not.
    """
    draw = random.Random(seed)
    roles = {role: draw.choice(SHARES) for role in ("trainer", "supervisor", "reader")}
    ending = draw.choice(ENDINGS)
    study = root / f"study{seed}"
    steps = draw.choice((40, 90)) if ending == "none" else 1_000_000
    config = {"steps": steps, "step_s": 0.004}
    run = new_run(study, kind="train", config=config, plan={}, seed=0, slug="x", argv=[], trainer="fake_trainer")
    paths = RunPaths(run)
    # Most runs start: what fails later is rarer and worse.
    faults = json.dumps({"root": str(study), "seed": seed, "roles": roles, "quiet": [0, 100, 200, 400]})
    env = {**ENV, "PATCHCORE_FAULTS": faults, "PYTHONPATH": os.pathsep.join((str(TESTS / "faults"), ENV["PYTHONPATH"]))}
    words = f"{ending}, {roles}"
    reader = None
    try:
        try:
            start_attempt(run, env=env)
        except (PatchcoreError, OSError) as error:
            words += f", not started ({error})"
        else:
            if draw.random() < 0.3:
                reader = subprocess.Popen(
                    [sys.executable, "-c", READER, str(study), "1.0"], env=env, stderr=subprocess.PIPE
                )
            if ending != "none":
                _wait(lambda: (read_object(paths.start(1)) or {}).get("trainer") or not _alive(paths), "the trainer")
                time.sleep(draw.uniform(0, 0.5))
                _end(run, ending)
        _wait(lambda: not _alive(paths), "the end of all processes")
        if reader is not None and (reader.wait(60) or b"Traceback" in (reader.communicate()[1] or b"")):
            raise Broken("the reader died")
        return words + ", " + _check(run)
    finally:
        for lock in (paths.trainer_lock, paths.supervisor_lock):
            if pid := lock_holder(lock):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(study, ignore_errors=True)


def _end(run: Path, ending: str) -> None:
    report = run_state(run)
    supervisor, trainer = report.supervisor_pid, report.trainer_pid
    targets = {
        "signal all": (supervisor, trainer),
        "signal supervisor": (supervisor,),
        "signal trainer": (trainer,),
        "kill trainer": (trainer,),
        "kill supervisor": (supervisor, trainer),  # and the trainer: an orphan would go on
    }
    if ending == "request":
        with suppress(PatchcoreError):
            request(run, "stop", {"grace_s": 20})
        # A supervisor without locks or requests to read is asked by a signal.
        deadline = time.monotonic() + 25
        while _alive(RunPaths(run)) and time.monotonic() < deadline:
            time.sleep(0.05)
        ending = "signal all" if _alive(RunPaths(run)) else ending
    number = signal.SIGKILL if ending.startswith("kill") else signal.SIGTERM
    for pid in targets.get(ending, ()):
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _alive(paths: RunPaths) -> bool:
    return any(lock_holder(lock) is not None for lock in (paths.trainer_lock, paths.supervisor_lock))


def _wait(is_so: Any, what: str) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        if time.monotonic() > deadline:
            raise Broken(f"waited too long for {what}")
        time.sleep(0.02)


def _check(run: Path) -> str:
    paths, report = RunPaths(run), run_state(run)
    if report.state is not RunState.QUEUED and not report.state.is_over:
        raise Broken(f"no process is left, but the state is {report.label}")
    if [item.state.state for item in list_runs(run.parent.parent)] != [report.state]:
        raise Broken("the list of runs shows another state")
    view = RunReader(run).poll()
    if view.bad_lines:
        raise Broken(f"{view.bad_lines} unreadable lines")
    found = losses(run)
    if any(value != 1 / step for step, value in found):
        raise Broken("a wrong value was recorded")
    saved = (read_object(paths.checkpoints / "last.json") or {}).get("step", 0)
    newest = int(found[-1][0]) if found else 0
    if saved < newest - INTERVAL:
        raise Broken(f"the checkpoint of step {saved} is older than an interval: step {newest} was recorded")
    record = read_object(paths.exit(1)) if paths.attempt(1).exists() else None
    if record is not None:
        expected = {0: RunState.FINISHED, 75: RunState.STOPPED}.get(record["code"])
        if expected is not None and report.state is not expected:
            raise Broken(f"exit code {record['code']}, but the state is {report.label}")
        if record["code"] == 75 and saved < newest:
            raise Broken(f"stopped with step {saved} saved, but step {newest} recorded")
    if report.state is RunState.FINISHED:
        if saved < view.total_steps // INTERVAL * INTERVAL - INTERVAL:
            raise Broken("finished, but its last checkpoint is missing")
        return report.label
    last = saved + 15
    start_attempt(run, env=ENV, overrides={"steps": last})
    _wait(lambda: not _alive(paths) and run_state(run).state.is_over, "the resumed run")
    if run_state(run).state is not RunState.FINISHED:
        raise Broken(f"the resumed run is {run_state(run).label}")
    resumed = losses(run)
    steps = [step for step, _ in resumed]
    if any(value != 1 / step for step, value in resumed) or steps != sorted(set(steps)):
        raise Broken("the resumed run has other values")
    if steps[-15:] != list(range(saved + 1, last + 1)):
        raise Broken(f"the resume did not continue after step {saved}: {steps[-15:]}")
    return report.label


def main() -> int:
    """Run scenarios and print those that fail; with ``--start``, continue after a number."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    failed = 0

    def one(seed: int) -> tuple[int, str, bool]:
        try:
            return seed, scenario(root, seed), True
        except (Broken, PatchcoreError, OSError) as error:
            return seed, f"{type(error).__name__}: {error}", False

    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(arguments.jobs) as pool:
        root = Path(name)
        for done, (seed, words, fine) in enumerate(
            pool.map(one, range(arguments.start, arguments.start + arguments.count)), 1
        ):
            failed += not fine
            if not fine or arguments.verbose:
                print(f"{seed}: {'' if fine else 'BROKEN: '}{words}", flush=True)
            elif done % 50 == 0:
                print(f"{done} of {arguments.count}, {failed} failed", flush=True)
    print(f"{arguments.count} scenarios from {arguments.start}: {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
