"""The real command in its own processes: a detached run, its supervisor and its trainer."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_training import TINY

from patchcore.runs import RunState, run_state
from patchcore.study import Study


def patchcore(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "patchcore", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("mode", [[], ["--foreground"]])
def test_train_watches_until_the_end(tiny_study: Path, mode: list[str]) -> None:
    settings = [part for setting in TINY for part in ("--set", setting)]
    done = patchcore("train", str(tiny_study), *settings, *mode, "--name", "A try")
    assert done.returncode == 0, done.stderr
    assert "validation at step 6" in done.stdout
    [run] = Study(tiny_study).runs_dir.iterdir()
    assert "a-try" in run.name


def test_detached_run_goes_on_alone(tiny_study: Path) -> None:
    settings = [part for setting in TINY for part in ("--set", setting)]
    done = patchcore("train", str(tiny_study), *settings, "--detach")
    assert done.returncode == 0, done.stderr
    run = Study(tiny_study).runs_dir / done.stdout.splitlines()[-1]
    deadline = time.monotonic() + 120
    while not run_state(run).state.is_over:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert run_state(run).state is RunState.FINISHED
    evaluated = patchcore("evaluate", str(tiny_study))
    assert evaluated.returncode == 0, evaluated.stderr
    assert "used for selection" in evaluated.stdout
    assert "centre ball" in evaluated.stdout
