"""The real command in its own processes: detached and foreground runs, folds, and profiling."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_training import TINY

from commands import patchcore, patchcore_here
from patchcore.cli import train_time
from patchcore.errors import ConfigError
from patchcore.runs import RunState, run_state
from patchcore.study import Study


@pytest.mark.parametrize("mode", [[], ["--foreground"]])
def test_train_watches_until_the_end(tiny_study: Path, mode: list[str]) -> None:
    settings = [part for setting in TINY for part in ("--set", setting)]
    done = patchcore("train", str(tiny_study), *settings, *mode, "--name", "A try")
    assert done.returncode == 0, done.stderr
    assert "validation at step 6" in done.stdout
    [run] = Study(tiny_study).runs_dir.iterdir()
    assert "a-try" in run.name


def test_detached_run_continues_alone(tiny_study: Path) -> None:
    settings = [part for setting in TINY for part in ("--set", setting)]
    done = patchcore("train", str(tiny_study), *settings, "--detach")
    assert done.returncode == 0, done.stderr
    run = Study(tiny_study).runs_dir / done.stdout.splitlines()[-1]
    deadline = time.monotonic() + 120
    while not run_state(run).state.is_over:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert run_state(run).state is RunState.FINISHED
    evaluated = patchcore_here("evaluate", str(tiny_study))
    assert evaluated.returncode == 0, evaluated.stderr
    assert "used for selection" in evaluated.stdout
    assert "baseline without training (centre ball of" in evaluated.stdout


def test_all_folds_one_after_the_other_and_only_what_is_missing(tiny_study: Path) -> None:
    command = ["train", str(tiny_study), "--fold", "all", "--foreground", "--name", "cv"]
    command += [part for setting in TINY for part in ("--set", setting)]
    first = patchcore(*command)
    assert first.returncode == 0, first.stderr
    assert "all folds: mean DSC" in first.stdout
    assert "over 6 cases" in first.stdout
    runs = sorted(path.name for path in Study(tiny_study).runs_dir.iterdir())
    assert [f"cv-fold{number}" in name for number, name in enumerate(runs)] == [True] * 3
    # Each case is held out once.
    splits = [
        json.loads((tiny_study / "runs" / name / "split.json").read_text(encoding="utf-8"))["validation"]
        for name in runs
    ]
    assert sorted(case for split in splits for case in split) == [f"case{number:02d}" for number in range(6)]
    # The second time nothing is trained.
    again = patchcore(*command)
    assert again.returncode == 0
    assert again.stdout.count("already finished") == 3
    assert again.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]
    assert len(list(Study(tiny_study).runs_dir.iterdir())) == 3


def test_a_stopped_fold_continues(tiny_study: Path) -> None:
    from patchcore.evaluation.folds import fold_run
    from patchcore.runs import start_attempt

    settings = [*TINY, "train.steps=100000", "train.steps_per_epoch=1000"]
    run = fold_run(tiny_study, 1, settings=settings)
    start_attempt(run.path)
    deadline = time.monotonic() + 60
    while run_state(run.path).state is not RunState.RUNNING:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert patchcore("runs", "stop", str(run.path)).returncode == 0
    while not run_state(run.path).state.is_over:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    found = fold_run(tiny_study, 1, settings=settings)
    assert (found.path, found.state) == (run.path, RunState.STOPPED)
    assert fold_run(tiny_study, 2, settings=settings).path != run.path
    # A run with other initial weights or with overrides in its attempt is a different experiment.
    weights = run.path / "checkpoints" / "last" / "model.safetensors"
    other = fold_run(tiny_study, 1, settings=[*settings, f"init.source={weights}"])
    assert other.path not in (run.path, found.path)
    assert fold_run(tiny_study, 1, settings=[*settings, f"init.source={run.path}"]).path != other.path
    start = run.path / "attempts" / "1" / "start.json"
    start.write_text(json.dumps(json.loads(start.read_text(encoding="utf-8")) | {"overrides": {"train": {"steps": 5}}}))
    assert fold_run(tiny_study, 1, settings=settings).path != run.path
    # A damaged run in the same study is skipped.
    (other.path / "run.json").chmod(0o644)
    (other.path / "run.json").write_text("{")
    fold_run(tiny_study, 0, settings=settings)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fold", "half"], "give a number from 0, or all"),
        (["--fold", "all", "--detach"], "cannot be detached"),
        (["--fold", "9"], "must be below train.folds"),
        (["--network", "resnet"], "legal: unetr"),
        (["--minutes", "5", "--steps", "10"], "--minutes and --steps cannot be used together"),
        (["--max-minutes", "5", "--max-hours", "1"], "--max-minutes and --max-hours cannot be used together"),
        (["--hours", "1", "--fold", "all"], "patchcore profile STUDY says how long a step takes"),
        (["--minutes", "0"], "--minutes 0"),
        (["--minutes", "inf"], "--minutes inf"),
        (["--minutes", "5", "--set", "train.epochs=3"], "train.epochs=3 and a time cannot be used together"),
    ],
)
def test_what_the_command_refuses(tiny_study: Path, options: list[str], words: str) -> None:
    done = patchcore("train", str(tiny_study), *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert not list(Study(tiny_study).runs_dir.iterdir())


def test_a_step_is_profiled(tiny_study: Path, tmp_path: Path) -> None:
    settings = [part for setting in TINY for part in ("--set", setting)]
    done = patchcore("profile", str(tiny_study), *settings, "--steps", "2", "--out", str(tmp_path / "trace.json"))
    assert done.returncode == 0, done.stderr
    for part in ("forward", "backward", "optimiser", "windows per second", "aten::"):
        assert part in done.stdout
    assert json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    done = patchcore(
        "profile", str(tiny_study), *settings, "--steps", "2", "--validate", "2", "--json", "--set", "train.device=cpu"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["validation"]["seconds"] > 0
    assert found["step_s"] > 0
    loading = next(seconds for part, seconds in found["parts"].items() if part.startswith("windows"))
    assert found["trained_s"] == pytest.approx(found["step_s"] + loading)  # the same cores do both
    cases = found["validation"]["training_cases"] + found["validation"]["cases"]
    assert cases == len(Study(tiny_study).accepted())
    assert not list(Study(tiny_study).runs_dir.iterdir())


def test_a_training_as_long_as_asked_for(tiny_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of steps comes from the measurement, and the time is also the limit."""
    asked: list[list[str]] = []
    measured = {"step_s": 1.5, "trained_s": 2.0, "validation": {"seconds": 5.8, "training_cases": 4, "cases": 2}}

    def profile(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, json.dumps(measured))

    monkeypatch.setattr(subprocess, "run", profile)
    own = ["train.steps_per_epoch=10", "train.ranks=2", "train.batch_size=4", "validation.every_epochs=2"]
    # 0.95 × 4 min = 228 s hold 105 steps of 2 s and, every 20 steps and at the end, 6 validations of 2.9 s (two ranks).
    assert train_time.settings_for(4, tiny_study, own, None) == [
        "train.steps=105", "train.epochs=0", "train.max_minutes=4"
    ]  # fmt: skip
    assert asked[0].index("train.batch_size=4") < asked[0].index("train.batch_size=2") < asked[0].index("train.ranks=1")
    with pytest.raises(ConfigError, match=r"0\.05 minutes are too short: .* validation of 2 cases at the end 3 s"):
        train_time.settings_for(0.05, tiny_study, own, None)
    with pytest.raises(ConfigError, match=r"train\.ranks=0"):
        train_time.settings_for(4, tiny_study, ["train.ranks=0"], None)
