"""Experiments end with every point trained once, whatever is killed, stopped or failing on the way."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from math import nan
from pathlib import Path
from typing import Any

import pytest
from lab import ENV, LONG, losses, over, pids, until, wait_for

from patchcore.cli import main
from patchcore.errors import ConfigError, LockedError, RunError
from patchcore.experiments.dispatch import Dispatcher, failures_of
from patchcore.experiments.folder import ExperimentFolder, Place, list_experiments
from patchcore.experiments.local import LocalExecutor, dispatcher_pid
from patchcore.experiments.points import make_points, parse_axes
from patchcore.experiments.protocol import Extension, Point, Protocol
from patchcore.experiments.start import continue_experiment
from patchcore.experiments.status import ExperimentStatus, experiment_status
from patchcore.experiments.tables import NOT_REPEATABLE
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
            experiment=folder.record_of(point.point_id),
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
    executor = LocalExecutor(slots, env=ENV, evaluates=False)
    return Dispatcher(folder, executor, fake_runs(folder, configs), say=lambda _: None, poll_s=0.02)


def after(folder: ExperimentFolder) -> ExperimentFolder:
    """Make the points of seed 1 wait for those of seed 0."""
    record = json.loads((folder.path / "experiment.json").read_text(encoding="utf-8"))
    for point in record["points"]:
        point["after"] = point["point_id"].replace("seed1", "seed0") if point["seed"] == 1 else None
    (folder.path / "experiment.json").chmod(0o644)
    (folder.path / "experiment.json").write_text(json.dumps(record), encoding="utf-8")
    return ExperimentFolder(folder.path)


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
    said: list[str] = []
    worker = dispatcher(folder, slots=1, **{name: {"fail_at": 3} for name in folder.points})
    worker.say = said.append
    assert not worker.work()
    assert said[-1].startswith("3 failures in a row: this host takes no more points.")
    assert states(folder) == {
        "patch4_seed0": "failed", "patch4_seed1": "waiting", "patch8_seed0": "waiting", "patch8_seed1": "waiting",
    }  # fmt: skip


def test_a_setting_that_always_fails_comes_after_all_others(folder: ExperimentFolder) -> None:
    always, said = {"fail_at": 3}, list[str]()
    worker = dispatcher(folder, slots=1, patch4_seed0=always, patch4_seed1=always)
    worker.say = said.append
    assert not worker.work()
    assert [text.partition(":")[0] for text in said if ": starts" in text] == [
        "patch4_seed0", "patch8_seed0", "patch8_seed1", "patch4_seed1",
    ]  # fmt: skip
    assert states(folder) == {
        "patch4_seed0": "failed", "patch4_seed1": "failed", "patch8_seed0": "finished", "patch8_seed1": "finished",
    }  # fmt: skip


def test_the_next_call_begins_with_settings_that_have_not_failed(folder: ExperimentFolder) -> None:
    always = {"fail_at": 3}
    bad = {"patch4_seed0": always, "patch4_seed1": always, "patch8_seed0": {"step_s": 60}}
    said: list[str] = []
    first = dispatcher(folder, slots=2, **bad)  # both slots have the bad setting
    first.say = said.append
    assert not first.work()
    assert said[-1].startswith("3 failures in a row")
    assert states(folder)["patch8_seed0"] == "waiting"
    for point_id in ("patch4_seed0", "patch4_seed1"):
        folder.reopen(point_id, folder.places()[point_id][0])
    bad.pop("patch8_seed0")
    said.clear()
    again = dispatcher(folder, slots=1, **bad)
    again.say = said.append
    again.work()
    assert [text.partition(":")[0] for text in said if "as " in text][:2] == ["patch8_seed0", "patch8_seed1"]
    assert list(states(folder).values()).count("finished") == 2


def test_too_little_memory_is_not_the_fault_of_the_host(folder: ExperimentFolder) -> None:
    worker = dispatcher(folder, slots=1, **{name: {"oom_at": 3} for name in folder.points})
    assert not worker.work()
    assert {place for place, _ in folder.places().values()} == {Place.ENDED}


def test_points_of_a_lost_dispatcher_wait_for_a_free_slot(folder: ExperimentFolder) -> None:
    for _ in range(3):
        assert folder.claim() is not None
    live: list[int] = []
    worker = dispatcher(folder, slots=1)
    worker.say = lambda _: live.append(len(worker._live))
    assert worker.work()
    assert max(live) == 1
    check_complete(folder)


def test_a_name_that_is_wrong_changes_no_point(folder: ExperimentFolder) -> None:
    assert dispatcher(folder).work()
    before = folder.places()
    with pytest.raises(RunError, match="no point patch9"):
        continue_experiment(folder, points=["patch4_seed0", "patch9"], take_over=["gone"])
    assert folder.places() == before


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


def test_a_point_waits_for_the_point_that_it_needs(folder: ExperimentFolder) -> None:
    folder = after(folder)
    said: list[str] = []
    worker = dispatcher(folder, slots=4)
    worker.say = said.append
    assert worker.work()
    check_complete(folder)
    for patch in (4, 8):
        assert said.index(first(said, f"patch{patch}_seed0: finished")) < said.index(
            first(said, f"patch{patch}_seed1: starts")
        )


def first(lines: list[str], start: str) -> str:
    return next(line for line in lines if line.startswith(start))


def test_what_needs_a_failed_point_is_not_started_and_says_why(folder: ExperimentFolder) -> None:
    folder = after(folder)
    assert not dispatcher(folder, patch4_seed0={"fail_at": 3}).work()
    found = {point.point.point_id: (point.state, point.reason) for point in experiment_status(folder).points}
    assert found["patch4_seed1"] == ("waiting", "needs patch4_seed0, which has failed")
    assert found["patch8_seed1"] == ("finished", None)


def test_what_was_trained_from_a_point_is_trained_again_with_it(folder: ExperimentFolder) -> None:
    folder = after(folder)
    assert dispatcher(folder).work()
    with pytest.raises(RunError, match=r"patch4_seed1 was trained from patch4_seed0.*add --point patch4_seed1"):
        continue_experiment(folder, points=["patch4_seed0"])
    check_complete(folder)


def test_a_point_without_its_run_says_what_to_do(folder: ExperimentFolder) -> None:
    assert dispatcher(folder).work()
    run = folder.run_of("patch8_seed0", folder.places()["patch8_seed0"][1])
    assert run is not None
    shutil.rmtree(run)
    found = {point.point.point_id: (point.state, point.reason) for point in experiment_status(folder).points}
    state, reason = found["patch8_seed0"]
    assert state == "failed"
    assert "does not exist any more" in str(reason)


def test_a_dispatcher_waits_for_the_source_that_another_host_trains(
    folder: ExperimentFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = after(folder)
    other = ExperimentFolder(folder.path, "elsewhere")
    assert other.move("patch4_seed0", Place.OPEN, Place.CLAIMED)
    seen: list[str] = []
    said: list[str] = []
    worker = dispatcher(folder)
    worker.say = said.append
    monkeypatch.setattr("patchcore.experiments.dispatch._SILENT_S", 0.0)

    def look() -> bool:
        if (
            not seen
            and any("--take-over elsewhere" in text for text in said)
            and states(folder)["patch8_seed1"] == "finished"
        ):
            seen.append("it waits")
            found = {point.point.point_id: (point.state, point.reason) for point in experiment_status(folder).points}
            assert found["patch4_seed1"] == ("waiting", "waits for patch4_seed0, which elsewhere works on")
            assert other.give_up_claim("elsewhere", "patch4_seed0")
        return False

    worker.stopping = look
    assert worker.work()
    assert seen
    check_complete(folder)
    assert other.owners() == {}


def test_a_finished_point_is_trained_again_only_by_name(folder: ExperimentFolder) -> None:
    assert dispatcher(folder).work()
    before = runs_of(folder)
    folder.start_over("patch8_seed0")
    assert states(folder)["patch8_seed0"] == "waiting"
    assert dispatcher(folder).work()
    [new] = set(runs_of(folder)) - set(before)
    assert "patch8-seed0" in new.name
    assert {point.point.point_id: point.run_id for point in experiment_status(folder).points}[
        "patch8_seed0"
    ] == new.name
    with pytest.raises(RunError, match="no point patch9"):
        folder.start_over("patch9")
    assert folder.move("patch4_seed0", Place.DONE, Place.CLAIMED)
    with pytest.raises(RunError, match="works on the point patch4_seed0"):
        folder.start_over("patch4_seed0")


def test_points_are_added_all_or_none(folder: ExperimentFolder) -> None:
    assert dispatcher(folder).work()
    late = ExperimentFolder(folder.path)
    more = make_points(
        tiny_plan(),
        parse_axes(["patch_size=16"]),
        seeds=(0, 1),
        folds=(0,),
        settings=["train.steps=30"],
        budget="steps",
    )
    extension = Extension(created="2026-01-02T00:00:00Z", user="a@b", patchcore="0", finished=4, points=more)
    folder.extend(extension)
    assert [*folder.points][4:] == ["patch16_seed0", "patch16_seed1"]
    with pytest.raises(ConfigError, match="extended by somebody else"):
        late.extend(extension)
    assert dispatcher(ExperimentFolder(folder.path)).work()
    assert len(runs_of(folder)) == 6
    assert ExperimentFolder(folder.path).extensions == (extension,)


WORKER = """
import sys
sys.path.insert(0, sys.argv[3])
from test_experiments import fake_runs
from patchcore.experiments.folder import ExperimentFolder
from patchcore.experiments.worker import Outcome, Worker
from patchcore.interrupts import StopSignal
folder = ExperimentFolder(sys.argv[1], sys.argv[2])
slow = {"step_s": 0.03} | eval(sys.argv[4])
make = fake_runs(folder, dict.fromkeys(folder.points, slow))
outcome = Worker(folder, StopSignal(), lambda _, point: make(point), evaluates=False, say=lambda _: None).work()
print(outcome)
"""


def worker(folder: ExperimentFolder, owner: str, config: str = "{}") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(folder.path), owner, str(Path(__file__).parent), config]
    return subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, text=True)


def test_workers_share_the_points_and_a_killed_one_is_continued_under_its_name(folder: ExperimentFolder) -> None:
    folder, draw = after(folder), random.Random(1)
    workers = {owner: worker(folder, owner) for owner in ("a", "b")}
    for _ in range(6):
        time.sleep(draw.uniform(0.3, 1.0))
        owner = draw.choice(["a", "b"])
        # As a cluster ends a job: the worker supervises in its own process, so both die.
        trainers = [run_state(run).trainer_pid for run in runs_of(folder)]
        workers[owner].kill()
        workers[owner].communicate()
        for pid in trainers[:1]:
            if pid:
                os.kill(pid, signal.SIGKILL)
        workers[owner] = worker(folder, owner)
    for process in workers.values():
        said, _ = process.communicate(timeout=120)
        assert said.strip() == "done"
    check_complete(folder)


def test_a_worker_stops_with_a_checkpoint(folder: ExperimentFolder) -> None:
    process = worker(folder, "a", '{"step_s": 0.2}')
    wait_for(lambda: any(run_state(run).state is RunState.RUNNING for run in runs_of(folder)), "the first run")
    process.terminate()
    assert process.communicate(timeout=60)[0].strip() == "interrupted"
    [run] = runs_of(folder)
    assert run_state(run).state is RunState.STOPPED
    assert folder.owners() == {"a": ["patch4_seed0"]}
    # Asked through the folder, it gives its point back.
    process = worker(folder, "a", '{"step_s": 0.2}')
    wait_for(lambda: run_state(run).state is RunState.RUNNING, "the run")
    folder.stop_file.touch()
    assert process.communicate(timeout=60)[0].strip() == "interrupted"
    assert folder.owners() == {}
    folder.stop_file.unlink()
    assert worker(folder, "b").communicate(timeout=120)[0].strip() == "done"
    check_complete(folder)


def test_a_host_on_which_everything_fails_takes_no_more_points(folder: ExperimentFolder) -> None:
    process = worker(folder, "a", '{"fail_at": 2, "step_s": 0.01}')
    assert process.communicate(timeout=60)[0].strip() == "bad host"
    assert [*states(folder).values()] == ["failed", "waiting", "waiting", "waiting"]
    assert worker(folder, "a").communicate(timeout=60)[0].strip() == "bad host"
    (folder.path / "dispatchers" / f"{socket.gethostname()}.attempts").unlink()
    folder.move("patch4_seed0", Place.ENDED, Place.OPEN)
    assert worker(folder, "b").communicate(timeout=120)[0].strip() == "done"
    # After its first failure, the host had gone on with the other patch size.
    assert [*states(folder).values()] == ["failed", "finished", "failed", "finished"]


SETTINGS = (
    "--preset", "tiny", "--steps", "6", "--set", "train.steps_per_epoch=3", "--set", "train.batch_size=2",
    "--set", "train.folds=3", "--set", "optim.warmup_steps=1", "--set", "train.tensorboard=false",
)  # fmt: skip


def test_the_commands(tiny_study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import patchcore as pc

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
    folder = tiny_study / "experiments" / "sizes"
    assert [point["patch_size"] for point in found["points"]] == ["4x4x4", "8x8x8"]
    for point in found["points"]:
        run = tiny_study / "runs" / point["run_id"]
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        own = {"name": "sizes", "point": point["point_id"], "created": ExperimentFolder(folder).protocol.created}
        assert record["experiment"] == own
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
    # The points were evaluated, and the report has every number of them.
    assert main(["report", study, "sizes"]) == 0
    assert "The rule mean-volume chose patch 8" in capsys.readouterr().out
    report = tiny_study / "experiments" / "sizes" / "report"
    with (report / "cases.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for point in found["points"]:
        evaluation = json.loads((tiny_study / "reports" / point["run_id"] / "evaluation.json").read_text("utf-8"))
        expected = {case["case_id"]: case["dsc"] for case in evaluation["cases"]}
        mine = {row["case_id"]: float(row["dsc"] or "nan") for row in rows if row["point"] == point["point_id"]}
        assert mine == pytest.approx(
            {key: nan if value is None else value for key, value in expected.items()}, nan_ok=True
        )
    page = (report / "report.html").read_text(encoding="utf-8")
    assert len(page) < 1_000_000
    assert "patch 4" in page
    assert main(["report", str(report.parent), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["points"]) == 2
    # Without its evaluation, a point is evaluated by the report.
    shutil.rmtree(tiny_study / "reports" / found["points"][0]["run_id"])
    assert main(["report", study, "sizes", "--no-evaluate", "-o", str(tiny_study / "other")]) == 0
    assert "it was not evaluated" in (tiny_study / "other" / "report.md").read_text(encoding="utf-8")
    assert main(["report", study, "sizes"]) == 0
    assert (tiny_study / "reports" / found["points"][0]["run_id"] / "evaluation.json").exists()
    # A user's evaluation in another way stays, and the report has its own.
    run_id = found["points"][1]["run_id"]
    of_user = tiny_study / "reports" / run_id / "evaluation.json"
    mirrored = json.loads(of_user.read_text(encoding="utf-8"))["mirrored"]
    assert main(["evaluate", study, run_id, "--no-mirror" if mirrored else "--mirror"]) == 0
    kept = of_user.read_bytes()
    dsc = (report / "dsc.csv").read_bytes()
    assert main(["report", study, "sizes"]) == 0
    assert of_user.read_bytes() == kept
    assert (tiny_study / "reports" / f"{run_id}-experiment" / "evaluation.json").exists()
    assert (report / "dsc.csv").read_bytes() == dsc
    with pytest.raises(ConfigError, match="suffix"):
        pc.evaluate(study, run_id, suffix="../a")
    # Further values are added to it.
    capsys.readouterr()
    assert main(["sweep", study, "--extend", "sizes", "--over", "patch_size=16", "--seeds", "1", "--dry-run"]) == 0
    assert "sizes: 1 point more" in capsys.readouterr().out
    assert main(["sweep", study, "--extend", "sizes", "--over", "optim.lr=1e-3"]) == 2
    assert main(["sweep", study, "--extend", "sizes", "--over", "patch_size=8"]) == 2
    assert main(["sweep", study, "--extend", "sizes", "--steps", "9"]) == 2
    # A second call finds nothing to do.
    assert main(["sweep", study, *axis, *SETTINGS, "--name", "sizes", "--slots", "1", "--detach"]) == 0
    experiment = tiny_study / "experiments" / "sizes"
    wait_for(lambda: dispatcher_pid(experiment, socket.gethostname()) is None, "the dispatcher")
    assert len(list((tiny_study / "runs").glob("2*"))) == 2
    assert [status.name for status in pc.list_experiments(study)] == ["sizes"]
    assert pc.show_experiment(study, "sizes").finished == 2
    assert pc.retry_experiment(study, "sizes").finished == 2
    assert not pc.stop_experiment(study, "sizes").worked_on
    (experiment / "stop").unlink()
    assert main(["experiments", "stop", study, "sizes"]) == 0
    assert (experiment / "stop").exists()


def test_from_python(tiny_study: Path) -> None:
    import patchcore as pc

    settings = [text for text in SETTINGS if "=" in text]
    with pytest.raises(ConfigError, match="fold 7 does not exist"):
        pc.sweep(tiny_study, {"patch_size": [8]}, folds=[7], settings=settings)
    with pytest.raises(ConfigError, match="different numbers from 0 up"):
        pc.sweep(tiny_study, {"patch_size": [8, (8, 8, 4)]}, seeds=(1, 1), settings=settings)


def test_a_transfer(tiny_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "large" / "study"
    source.parent.mkdir()
    shutil.copytree(tiny_study, source)
    described = json.loads((source / "study.json").read_text(encoding="utf-8"))
    (source / "study.json").write_text(json.dumps(described | {"study_id": "another"}), encoding="utf-8")
    plan_before = (source / "plan.json").read_bytes()
    command = ["transfer", str(source), "--target", str(tiny_study), "--pretrain-steps", "4", "--steps", "3"]
    command += ["--preset", "tiny", *(text for text in SETTINGS if text not in ("--preset", "tiny", "--steps", "6"))]
    assert main([*command, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "transfer: 4 points" in shown
    assert "after pre-training_large_patch8" in shown
    assert main([*command[:2], "--target", str(source), *command[4:]]) == 2  # source and target are the same
    assert "named twice" in capsys.readouterr().err
    assert main([*command, "--slots", "2", "--name", "t"]) == 0
    folder = ExperimentFolder(tiny_study / "experiments" / "t")
    runs = {name: folder.run_of(name, entry) for name, (_, entry) in folder.places().items()}
    before, tuned = runs["pre-training_large_patch8"], runs["fine-tuning_large_patch8"]
    assert before is not None
    assert tuned is not None
    assert before.parent == source / "runs"
    record = json.loads((tuned / "run.json").read_text(encoding="utf-8"))
    assert record["kind"] == "fine-tune"
    assert record["config"]["init"]["source"] == str(before)
    steps = {name: json.loads((run / "run.json").read_text("utf-8"))["config"]["train"]["steps"]
             for name, run in runs.items() if run}  # fmt: skip
    assert [*steps.values()] == [4, 3, 3, 7]
    assert (source / "plan.json").read_bytes() == plan_before
    like = json.loads((before / "run.json").read_text(encoding="utf-8"))["plan"]
    assert like["like"]["study"] == folder.protocol.over["target"][0]
    assert main(["report", str(folder.path)]) == 0
    text = (folder.path / "report" / "report.md").read_text(encoding="utf-8")
    # The copy of the study has the same scans: the pre-training has seen cases of the target.
    assert "Pre-training on large, patch 8" in text or "nothing can be compared" in text


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


def tables_of(report: Path) -> dict[str, list[list[str]]]:
    """Return the rows of all CSVs of a report, without the columns that are never the same."""
    found = {}
    for path in sorted(report.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        kept = [number for number, name in enumerate(rows[0]) if name not in NOT_REPEATABLE]
        found[path.name] = [[row[number] for number in kept] for row in rows]
    return found


def test_a_sweep_that_is_killed_again_and_again_gives_the_same_tables(tiny_study: Path, tmp_path: Path) -> None:
    whole, killed = tiny_study, tmp_path / "other" / "study"
    shutil.copytree(whole, killed)
    more = ("--set", "train.deterministic=true", "--set", "train.threads=1", "--set", "train.checkpoint_minutes=0.001")
    command = ["sweep", "--over", "patch_size=4,8", *SETTINGS, *more, "--name", "s", "--slots", "2", "--detach"]
    assert main([command[0], str(whole), *command[1:]]) == 0
    assert main([command[0], str(killed), *command[1:]]) == 0
    folder = ExperimentFolder(killed / "experiments" / "s")
    draw, kills = random.Random(2), 0
    deadline = time.monotonic() + 300
    while set(states(folder).values()) != {"finished"}:
        assert time.monotonic() < deadline, states(folder)
        time.sleep(draw.uniform(0.5, 2.5))
        worker = dispatcher_pid(folder.path, socket.gethostname())
        if worker is None:
            main([command[0], str(killed), *command[1:]])
            continue
        reports = [run_state(run) for run in runs_of(folder)]
        targets = [worker, *(pid for one in reports for pid in (one.supervisor_pid, one.trainer_pid) if pid)]
        if kills < 6:
            kills += 1
            os.kill(draw.choice(targets), signal.SIGKILL)
    for study in (whole, killed):
        one = ExperimentFolder(study / "experiments" / "s")
        wait_for(lambda one=one: set(states(one).values()) == {"finished"}, "the sweep")
        assert main(["report", str(study), "s"]) == 0
    unbroken, broken = (tables_of(study / "experiments" / "s" / "report") for study in (whole, killed))
    assert unbroken.keys() == broken.keys()
    for name in unbroken:
        if name != "protocol.csv":  # its facts are dates, hosts and versions
            assert unbroken[name] == broken[name], name
    assert kills == 6


def test_a_training_that_outlives_its_worker_is_waited_for(folder: ExperimentFolder) -> None:
    """The trainer of a worker that was killed goes on; the next worker neither fails nor repeats the point."""
    process = worker(folder, "a", '{"step_s": 0.15}')
    wait_for(lambda: any(run_state(run).state is RunState.RUNNING for run in runs_of(folder)), "the first run")
    process.kill()
    process.communicate()
    assert worker(folder, "a").communicate(timeout=120)[0].strip() == "done"
    check_complete(folder)


def test_a_call_forgives_what_has_failed_before(folder: ExperimentFolder) -> None:
    assert not dispatcher(folder, patch4_seed0={"fail_at": 5}).work()
    entry = folder.places()["patch4_seed0"][1]
    run = folder.run_of("patch4_seed0", entry)
    assert run is not None
    assert folder.reopen("patch4_seed0", Place.ENDED, forgiven=RunPaths(run).newest_attempt())
    assert "reason" not in folder.places()["patch4_seed0"][1] or not folder.places()["patch4_seed0"][1]["reason"]
    assert not dispatcher(folder, patch4_seed0={"fail_at": 5}).work()
    found = {point.point.point_id: point for point in experiment_status(folder).points}["patch4_seed0"]
    assert (found.attempts, found.reason) == (4, "failed 2 times: RuntimeError: failed at step 5")


def test_an_experiment_that_was_made_again_takes_no_runs_of_the_deleted_one(folder: ExperimentFolder) -> None:
    assert dispatcher(folder).work()
    before = runs_of(folder)
    shutil.rmtree(folder.path)
    protocol = folder.protocol.model_copy(update={"created": "2026-02-02T00:00:00Z"})
    again = ExperimentFolder.create(folder.study, protocol)
    assert all(again.run_of(point_id, {}) is None for point_id in again.points)
    assert dispatcher(again).work()
    assert len(runs_of(again)) == 2 * len(before)
    assert set(states(again).values()) == {"finished"}


def test_points_of_a_lost_host_are_taken_over_by_name(folder: ExperimentFolder) -> None:
    lost = ExperimentFolder(folder.path, "lost")
    assert lost.move("patch4_seed0", Place.OPEN, Place.CLAIMED)
    with pytest.raises(RunError, match=r"lost works on the point patch4_seed0.*--take-over lost"):
        folder.start_over("patch4_seed0")
    with pytest.raises(RunError, match="'gone' has claimed no point; points are claimed by: lost"):
        folder.take_over("gone")
    assert folder.take_over("lost") == ["patch4_seed0"]
    assert dispatcher(folder).work()
    check_complete(folder)
