"""Experiments end with every point trained once, whatever is killed, stopped or failing on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from lab import ENV, LONG, losses, over, pids, until, wait_for

from patchcore.cli import main
from patchcore.errors import ConfigError, LockedError
from patchcore.experiments.dispatch import Dispatcher, failures_of
from patchcore.experiments.folder import ExperimentFolder, Place, list_experiments
from patchcore.experiments.local import LocalExecutor, dispatcher_pid
from patchcore.experiments.points import make_points, parse_axes
from patchcore.experiments.protocol import Point, Protocol
from patchcore.experiments.status import ExperimentStatus, experiment_status
from patchcore.runs import RunState, new_run, request, run_state
from patchcore.runs.paths import RunPaths
from patchcore.study import Study
from tiny_plan import tiny_plan

STEPS = 30


def protocol(name: str = "a", **changes: Any) -> Protocol:
    axes = parse_axes(["patch_size=4,8"])
    points = make_points(tiny_plan(), axes, seeds=(0, 1), folds=(0,), settings=[f"train.steps={STEPS}"], budget="steps")
    values: dict[str, Any] = {
        "name": name,
        "created": "2026-01-01T00:00:00Z",
        "user": "a@b",
        "patchcore": "0",
        "over": axes,
        "seeds": (0, 1),
        "folds": (0,),
        "budget": "steps",
        "settings": (f"train.steps={STEPS}",),
        "failures_allowed": 2,
        "keep_checkpoints": False,
        "plan": tiny_plan(),
        "points": points,
    }
    return Protocol(**(values | changes))


def fake_runs(folder: ExperimentFolder, configs: Mapping[str, Any]) -> Callable[[Point], Path]:
    """Create runs of the fake trainer; `configs` changes the behaviour of single points."""

    def make_run(point: Point) -> Path:
        return new_run(
            folder.study,
            kind="train",
            config={"steps": STEPS, "step_s": 0.01} | configs.get(point.point_id, {}),
            plan={},
            seed=point.seed,
            slug=point.point_id,
            argv=[],
            experiment={"name": folder.protocol.name, "point": point.point_id},
            trainer="fake_trainer",
        )

    return make_run


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[ExperimentFolder]:
    (tmp_path / "study").mkdir()
    folder = ExperimentFolder.create(tmp_path / "study", protocol())
    yield folder
    for run in runs_of(folder):
        for pid in (run_state(run).supervisor_pid, run_state(run).trainer_pid):
            if pid:
                os.kill(pid, signal.SIGKILL)


def runs_of(folder: ExperimentFolder) -> list[Path]:
    return sorted((folder.study / "runs").glob("2*")) if (folder.study / "runs").exists() else []


def dispatcher(folder: ExperimentFolder, slots: int = 2, **configs: Any) -> Dispatcher:
    return Dispatcher(
        folder, LocalExecutor(slots, env=ENV), fake_runs(folder, configs), say=lambda _: None, poll_s=0.02
    )


def states(folder: ExperimentFolder) -> dict[str, str]:
    return {point.point.point_id: point.state for point in experiment_status(folder).points}


def check_complete(folder: ExperimentFolder) -> None:
    """Every point has one run, which has made each step once."""
    assert set(states(folder).values()) == {"finished"}
    assert len(runs_of(folder)) == len(folder.points)
    for run in runs_of(folder):
        assert losses(run) == [(step, 1 / step) for step in range(1, STEPS + 1)]


def test_all_points_are_trained_and_a_second_call_does_nothing(folder: ExperimentFolder) -> None:
    assert dispatcher(folder).work()
    check_complete(folder)
    first = runs_of(folder)
    assert dispatcher(folder).work()
    assert runs_of(folder) == first
    status = experiment_status(folder)
    assert status.finished == 4
    rows = [point.to_row() for point in status.points]
    assert [row["patch_size"] for row in rows] == ["4x4x4", "4x4x4", "8x8x8", "8x8x8"]
    assert all(row["dsc"] == pytest.approx(1 - 1 / STEPS) and row["best_step"] == STEPS for row in rows)


def test_a_point_that_fails_is_tried_again_and_the_others_go_on(folder: ExperimentFolder) -> None:
    assert not dispatcher(folder, patch4_seed1={"fail_at": 5}).work()
    status = {point.point.point_id: point for point in experiment_status(folder).points}
    broken = status.pop("patch4_seed1")
    assert {point.state for point in status.values()} == {"finished"}
    assert (broken.state, broken.failures, broken.attempts) == ("failed", 2, 2)
    assert broken.reason == "failed 2 times: RuntimeError: failed at step 5"
    # The same command tries it again.
    assert folder.move("patch4_seed1", Place.ENDED, Place.OPEN)
    dispatcher(folder).work()
    assert failures_of(folder.study / "runs" / str(broken.run_id)).count == 3


def test_three_failures_in_a_row_end_the_work_of_this_host(folder: ExperimentFolder) -> None:
    always = {"fail_at": 3}
    said: list[str] = []
    worker = dispatcher(folder, slots=1, patch4_seed0=always, patch4_seed1=always)
    worker.say = said.append
    assert not worker.work()
    assert said[-1].startswith("3 failures in a row: this host takes no more points.")
    assert states(folder) == {
        "patch4_seed0": "failed", "patch4_seed1": "waiting", "patch8_seed0": "waiting", "patch8_seed1": "waiting",
    }  # fmt: skip


def test_a_stop_leaves_checkpoints_and_the_same_command_continues(folder: ExperimentFolder) -> None:
    slow = {"step_s": 0.05}
    worker = dispatcher(folder, patch4_seed0=slow, patch4_seed1=slow)
    worker.stopping = lambda: any(run_state(run).state is RunState.RUNNING for run in runs_of(folder))
    assert not worker.work()
    assert set(states(folder).values()) == {"waiting"}
    assert all(run_state(run).state in (RunState.STOPPED, RunState.QUEUED) for run in runs_of(folder))
    assert dispatcher(folder).work()
    check_complete(folder)


def test_a_run_that_a_user_stops_is_not_started_again(folder: ExperimentFolder) -> None:
    def stop_first(text: str) -> None:
        if text.startswith("patch4_seed0: starts"):
            [run] = runs_of(folder)
            until(run, lambda report: report.state is RunState.RUNNING)
            request(run, "stop", author="somebody")
            until(run, over)

    worker = dispatcher(folder, slots=1, patch4_seed0={"steps": LONG})
    worker.say = stop_first
    assert not worker.work()
    found = {point.point.point_id: point for point in experiment_status(folder).points}
    assert (found["patch4_seed0"].state, found["patch4_seed0"].reason) == ("stopped", "stopped: requested by somebody")
    assert [found[name].state for name in ("patch4_seed1", "patch8_seed0", "patch8_seed1")] == ["finished"] * 3


def test_a_signal_from_a_cluster_is_an_interruption(folder: ExperimentFolder) -> None:
    def terminate(text: str) -> None:
        if text.startswith("patch4_seed0: starts"):
            [run] = runs_of(folder)
            until(run, lambda report: report.state is RunState.RUNNING)
            os.kill(pids(run)[0], signal.SIGTERM)

    worker = dispatcher(folder, slots=1)
    worker.say = terminate
    assert worker.work()
    check_complete(folder)


WORK = """
import sys
sys.path.insert(0, sys.argv[3])
from test_experiments import dispatcher
from patchcore.experiments.folder import ExperimentFolder
slow = {"step_s": 0.03}
names = ("patch4_seed0", "patch4_seed1", "patch8_seed0", "patch8_seed1")
sys.exit(not dispatcher(ExperimentFolder(sys.argv[1]), int(sys.argv[2]), **{name: slow for name in names}).work())
"""


def test_any_process_killed_at_random_instants_loses_and_repeats_nothing(folder: ExperimentFolder) -> None:
    draw = random.Random(0)
    command = [sys.executable, "-c", WORK, str(folder.path), "2", str(Path(__file__).parent)]
    worker = subprocess.Popen(command, env=ENV)
    for _ in range(12):
        time.sleep(draw.uniform(0.2, 0.9))
        targets = [worker.pid]
        for run in runs_of(folder):
            report = run_state(run)
            targets += [pid for pid in (report.supervisor_pid, report.trainer_pid) if pid]
        target = draw.choice(targets)
        if target == worker.pid:
            worker.kill()
            worker.wait()
            worker = subprocess.Popen(command, env=ENV)
        else:
            os.kill(target, signal.SIGKILL)
    while worker.wait(120):  # its lock may still have been held by the one before
        worker = subprocess.Popen(command, env=ENV)
    check_complete(folder)


def test_two_dispatchers_share_an_experiment_and_never_a_point(folder: ExperimentFolder) -> None:
    claimed = [folder.claim() for _ in range(5)]
    assert [point.point_id for point in claimed if point] == list(folder.points)
    assert claimed[-1] is None
    assert not folder.move("patch4_seed0", Place.OPEN, Place.CLAIMED)


def test_one_dispatcher_of_a_host(folder: ExperimentFolder) -> None:
    holding = (
        "import sys, time; from patchcore.locks import FileLock; FileLock(sys.argv[1]).acquire(); print(flush=True); "
        "time.sleep(60)"
    )
    lock = folder.path / "dispatchers" / f"{socket.gethostname()}.lock"
    other = subprocess.Popen([sys.executable, "-c", holding, str(lock)], stdout=subprocess.PIPE, env=ENV)
    assert other.stdout is not None
    other.stdout.readline()
    try:
        with pytest.raises(LockedError):
            dispatcher(folder).work()
    finally:
        other.kill()
        other.communicate()


def test_another_protocol_under_the_same_name_is_refused(folder: ExperimentFolder) -> None:
    same = ExperimentFolder.create(folder.study, protocol(created="2027-01-01T00:00:00Z", user="c"))
    assert same.path == folder.path
    with pytest.raises(ConfigError, match=r"another protocol \(different: failures_allowed\)"):
        ExperimentFolder.create(folder.study, protocol(failures_allowed=3))
    assert [found.protocol.name for found in list_experiments(folder.study)] == ["a"]


SETTINGS = (
    "--preset", "tiny", "--steps", "6", "--set", "train.steps_per_epoch=3", "--set", "train.batch_size=2",
    "--set", "train.folds=3", "--set", "optim.warmup_steps=1", "--set", "train.tensorboard=false",
)  # fmt: skip


def test_the_commands(tiny_study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = str(tiny_study)
    axis = ("--over", "patch_size=4,8")
    assert main(["sweep", study, *axis, *SETTINGS, "--dry-run"]) == 0
    assert "2 points, equal steps" in capsys.readouterr().out
    assert not (tiny_study / "experiments").exists()
    assert main(["experiments", "list", study]) == 0
    assert "no experiments yet" in capsys.readouterr().out
    assert main(["sweep", study, "--over", "patch_size=5", *SETTINGS]) == 2
    assert main(["sweep", study, *axis, *SETTINGS, "--folds", "0,x"]) == 2
    assert main(["sweep", study, *axis, *SETTINGS, "--name", "../a"]) == 2
    assert not (tiny_study / "experiments").exists()

    assert main(["sweep", study, *axis, *SETTINGS, "--name", "sizes", "--slots", "2"]) == 0
    shown = capsys.readouterr().out
    assert "sizes: 2 points: 2 finished" in shown
    assert main(["experiments", "show", study, "sizes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [point["patch_size"] for point in found["points"]] == ["4x4x4", "8x8x8"]
    for point in found["points"]:
        run = tiny_study / "runs" / point["run_id"]
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        assert record["experiment"] == {"name": "sizes", "point": point["point_id"]}
        assert "x".join(map(str, record["plan"]["targets"][0]["patch_size"])) == point["patch_size"]
        assert record["config"]["train"]["threads"] >= 1
        # Only the best weights are kept.
        assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best"]
    assert Study(tiny_study).plan().patch_size == (8, 8, 8)  # the study's own plan stays
    assert main(["experiments", "show", study, "sizes", "--csv"]) == 0
    assert capsys.readouterr().out.count("\n") == 3
    assert main(["experiments", "show", study, "other"]) == 1
    assert main(["experiments", "list", study, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "sizes"
    assert main(["evaluate", study, found["points"][0]["run_id"]]) == 0
    # A second call finds nothing to do.
    assert main(["sweep", study, *axis, *SETTINGS, "--name", "sizes", "--slots", "1", "--detach"]) == 0
    experiment = tiny_study / "experiments" / "sizes"
    wait_for(lambda: dispatcher_pid(experiment, socket.gethostname()) is None, "the dispatcher")
    assert len(list((tiny_study / "runs").glob("2*"))) == 2
    assert main(["experiments", "stop", study, "sizes"]) == 0
    assert (experiment / "stop").exists()


def test_from_python(tiny_study: Path) -> None:
    import patchcore as pc

    settings = [text for text in SETTINGS if "=" in text]
    with pytest.raises(ConfigError, match="fold 7 does not exist"):
        pc.sweep(tiny_study, {"patch_size": [8]}, folds=[7], settings=settings)
    with pytest.raises(ConfigError, match="different numbers from 0 up"):
        pc.sweep(tiny_study, {"patch_size": [8, (8, 8, 4)]}, seeds=(1, 1), settings=settings)


def test_a_damaged_or_newer_experiment_is_named(folder: ExperimentFolder) -> None:
    file = folder.path / "experiment.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    file.chmod(0o644)
    for change, words in ({"schema_version": 9}, "up to 1"), ({"unknown": 1}, "unknown"):
        file.write_text(json.dumps(record | change), encoding="utf-8")
        with pytest.raises(Exception, match=words):
            ExperimentFolder(folder.path)


def test_status_of_an_empty_place_is_a_claim(folder: ExperimentFolder) -> None:
    status: ExperimentStatus = experiment_status(folder)
    assert {point.state for point in status.points} == {"waiting"}
    assert not status.worked_on
    assert RunPaths(folder.study).newest_attempt() is None
