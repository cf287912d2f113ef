"""Experiments on a real Slurm cluster and on a real Ray cluster, both on this machine, with the fake trainer."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from lab import ENV, kill_tree, processes_of, wait_for
from test_experiments import after, check_complete, fake_runs, protocol, runs_of, states
from tiny_training import TINY

from commands import patchcore
from patchcore.datasets.analyze import analyze_dataset
from patchcore.errors import ConfigError, RunError
from patchcore.experiments import slurm
from patchcore.experiments.executors import Where, chosen_before, is_worked_on, stop
from patchcore.experiments.folder import ExperimentFolder, Place
from patchcore.experiments.start import continue_experiment
from patchcore.runs import RunState, list_runs, run_state
from patchcore.runs.paths import RunPaths
from patchcore.study import Study
from slurm_cluster import SlurmCluster, slurm_root

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    root = slurm_root()
    if root is None:
        pytest.skip("Slurm is neither installed nor to be downloaded")
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"), root)
    yield cluster
    cluster.end()


@pytest.fixture
def folder(tmp_path: Path) -> ExperimentFolder:
    """An experiment of four points, two of which need the others, with runs of the fake trainer."""
    study = tmp_path / "study"
    study.mkdir()
    (study / "study.json").write_text(json.dumps({"schema_version": 1, "dataset_root": "d", "study_id": tmp_path.name}))
    return with_runs(after(ExperimentFolder.create(study, protocol())))


def with_runs(folder: ExperimentFolder, **config: Any) -> ExperimentFolder:
    make = fake_runs(folder, dict.fromkeys(folder.points, {"step_s": 0.05} | config))
    for point in folder.points.values():
        make(point)
    return folder


@pytest.fixture
def on_cluster(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    for key, value in (cluster.env | {"PYTHONPATH": ENV["PYTHONPATH"]}).items():
        monkeypatch.setenv(key, value)
    yield cluster
    cluster.call("scancel", "--name=patchcore-a", check=False)


def wait_on(cluster: SlurmCluster, folder: ExperimentFolder, is_so: Callable[[], bool]) -> None:
    """Wait; requeued tasks start without the two minutes that Slurm gives to their first attempts to end."""
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline, states(folder)
        for task in slurm.queued_points(folder).values():
            cluster.call("scontrol", "update", f"JobId={task}", "StartTime=now", check=False)
        time.sleep(0.5)


def over(folder: ExperimentFolder) -> bool:
    return not slurm.queued_points(folder)


def test_slurm_trains_all_points_whatever_is_killed(folder: ExperimentFolder, on_cluster: SlurmCluster) -> None:
    draw = random.Random(3)
    where = Where("slurm", options=("--partition=low", "--time=10"))
    continue_experiment(folder, where)
    assert chosen_before(folder) == where
    assert is_worked_on(folder)
    kills, deadline = 0, time.monotonic() + 240
    while time.monotonic() < deadline:
        time.sleep(draw.uniform(0.3, 1.2))
        targets = processes_of(folder)
        if targets and kills < 8:
            kills += 1
            os.kill(draw.choice(targets), signal.SIGKILL)
        elif not targets and over(folder):
            if all(place is Place.DONE for place, _ in folder.places().values()):
                break
            continue_experiment(folder)  # a killed task has failed: the same command takes its point back
    check_complete(folder)
    assert kills == 8
    assert not is_worked_on(folder)


def running(folder: ExperimentFolder) -> list[Path]:
    return [run for run in runs_of(folder) if run_state(run).state is RunState.RUNNING]


def test_a_preempted_task_continues_its_own_point(folder: ExperimentFolder, on_cluster: SlurmCluster) -> None:
    shutil.rmtree(folder.study / "runs")
    with_runs(folder, step_s=0.15)
    slurm.submit(folder, options=["--partition=low"])
    wait_for(lambda: len(running(folder)) == 2, "two trainings")
    mine = folder.owners()
    on_cluster.call("sbatch", "--partition=high", "--cpus-per-task=2", "--output=/dev/null", "--wrap", "sleep 1")
    wait_for(lambda: not running(folder), "the preemption")
    assert folder.owners() == mine  # the claims stay with the tasks, which Slurm has requeued
    assert set(slurm.queued_points(folder)) >= {"patch4_seed0", "patch8_seed0"}
    wait_on(on_cluster, folder, lambda: len(running(folder)) == 2)
    assert folder.owners() == mine
    wait_on(on_cluster, folder, lambda: over(folder))
    check_complete(folder)
    assert {len(list((run / "attempts").iterdir())) for run in runs_of(folder)[:4]} == {1, 2}


def test_before_the_time_limit_a_task_requeues_itself(folder: ExperimentFolder, on_cluster: SlurmCluster) -> None:
    shutil.rmtree(folder.study / "runs")
    with_runs(folder, step_s=0.15)
    [job, *_] = slurm.submit(folder, options=["--partition=low"], slots=1)
    wait_for(lambda: len(running(folder)) == 1, "a training")
    [owner] = folder.owners()
    on_cluster.call("scancel", "--batch", "--signal=USR1", owner.rpartition("-")[2])
    wait_for(lambda: not running(folder), "the end of the attempt")
    log = folder.path / "dispatchers" / f"slurm-{owner.rpartition('-')[2]}.log"
    wait_for(lambda: "requeued as" in log.read_text(encoding="utf-8"), "the requeue")
    assert [*folder.owners()] == [owner]
    wait_on(on_cluster, folder, lambda: over(folder))
    check_complete(folder)
    assert job > 0


def test_an_experiment_on_slurm_can_be_stopped(folder: ExperimentFolder, on_cluster: SlurmCluster) -> None:
    shutil.rmtree(folder.study / "runs")
    with_runs(folder, step_s=0.15)
    continue_experiment(folder, Where("slurm", 1, ("--partition=low",)))
    wait_for(lambda: len(running(folder)) == 1, "a training")
    stop(folder)
    wait_for(lambda: over(folder), "the end")
    assert set(states(folder).values()) == {"waiting"}
    assert folder.owners() == {}
    assert RunState.STOPPED in {run_state(run).state for run in runs_of(folder)}


def test_what_slurm_refuses_is_said_and_nothing_is_lost(folder: ExperimentFolder, on_cluster: SlurmCluster) -> None:
    with pytest.raises(RunError, match=r"sbatch: .*nowhere"):
        slurm.submit(folder, options=["--partition=nowhere"])
    assert set(states(folder).values()) == {"waiting"}
    # Who has claimed a point and is not in the queue any more is lost.
    lost = ExperimentFolder(folder.path, "slurm-test-99999_0")
    assert lost.move("patch4_seed0", Place.OPEN, Place.CLAIMED)
    other = ExperimentFolder(folder.path, "slurm-elsewhere-1_2")
    assert other.move("patch8_seed0", Place.OPEN, Place.CLAIMED)
    slurm.submit(folder, options=["--partition=low", "--begin=now+1hour"])
    assert folder.owners() == {"slurm-elsewhere-1_2": ["patch8_seed0"]}
    assert set(slurm.queued_points(folder)) == {"patch4_seed0", "patch4_seed1"}
    assert slurm.submit(folder) == []  # they are in the queue
    stop(folder)
    continue_experiment(folder, Where("slurm", None, ("--partition=low", "--begin=now+1hour")))
    stop(folder)
    wait_for(lambda: over(folder), "an empty queue")


def test_without_slurm_the_message_says_so(folder: ExperimentFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("SLURM_CLUSTER_NAME", raising=False)
    with pytest.raises(RunError, match="squeue was not found; run this on a machine that can submit"):
        slurm.submit(folder)
    with pytest.raises(ConfigError, match="local or slurm or ray"):
        Where("kubernetes")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="--sbatch needs --executor slurm"):
        Where("local", options=("--partition=gpu",))
    with pytest.raises(ConfigError, match="--ray-address needs"):
        Where("local", address="1.2.3.4:6379")


@pytest.mark.parametrize(
    ("job", "found"),
    [
        ({"array_job_id": 7, "array_task_id": 3, "array_task_string": "", "job_state": "RUNNING"}, {3}),
        ({"array_job_id": 7, "array_task_id": None, "array_task_string": "0,2-3%2", "job_state": "PENDING"}, {0, 2, 3}),
        (
            {
                "array_job_id": {"set": True, "infinite": False, "number": 7},
                "array_task_id": {"set": False, "number": 0},
                "array_task_string": "[1]",
                "job_state": ["PENDING"],
            },
            {1},
        ),
        ({"array_job_id": {"set": True, "number": 7}, "array_task_id": 0, "job_state": ["CANCELLED"]}, set()),
        ({"array_job_id": 8, "array_task_id": 1, "job_state": "RUNNING"}, set()),
    ],
)  # fmt: skip
def test_the_queue_is_read_as_old_and_new_versions_write_it(
    folder: ExperimentFolder, monkeypatch: pytest.MonkeyPatch, job: dict[str, Any], found: set[int]
) -> None:
    mark = f"patchcore {folder.study.parent.name} a" if job["array_job_id"] != 8 else "patchcore another a"
    monkeypatch.setattr(slurm, "call", lambda command: json.dumps({"jobs": [job | {"comment": mark}]}))
    names = [*folder.points]
    assert slurm.queued_points(folder) == {names[at]: f"7_{at}" for at in found}


@pytest.fixture(scope="module")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A cluster with two GPUs that do not exist."""
    pytest.importorskip("ray")
    home = tmp_path_factory.mktemp("ray")
    env = ENV | {"HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    options = [
        "--head",
        "--num-cpus=2",
        "--num-gpus=2",
        "--port=0",
        "--include-dashboard=false",
        "--disable-usage-stats",
    ]
    started = subprocess.run(
        [*ray, "start", *options, f"--temp-dir=/tmp/ray-{os.getpid()}"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == 0, started.stdout + started.stderr
    address = Path(f"/tmp/ray-{os.getpid()}/ray_current_cluster").read_text(encoding="utf-8").strip()
    yield env | {"RAY_ADDRESS": address}
    # Not ray stop: it also ends the clusters of tests that run at the same time.
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(f"/tmp/ray-{os.getpid()}/" in word for word in process.cmdline()):
                kill_tree(process.pid)
    shutil.rmtree(f"/tmp/ray-{os.getpid()}", ignore_errors=True)


def test_ray_trains_all_points_whatever_is_killed(folder: ExperimentFolder, ray_cluster: dict[str, str]) -> None:
    draw = random.Random(4)
    command = [sys.executable, "-P", "-m", "patchcore.experiments.ray", str(folder.path)]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env=ray_cluster, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    driver = start()
    kills = 0
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        time.sleep(draw.uniform(0.4, 1.5))
        if driver.poll() == 0:
            break
        if driver.returncode is not None:
            driver = start()
            continue
        targets = processes_of(folder)
        if kills < 6 and len(targets) > 1:
            kills += 1
            os.kill(draw.choice(targets), signal.SIGKILL)
    assert driver.poll() == 0
    assert kills == 6
    check_complete(folder)
    # Each slot had a GPU of its own.
    owners = {path.stem for path in (folder.path / "dispatchers").glob("ray-*.lock")}
    assert owners == {"ray-0", "ray-1"}


def test_each_task_of_srun_is_a_rank_of_one_training(tiny_study: Path, on_cluster: SlurmCluster) -> None:
    command = [sys.executable, "-m", "patchcore", "train", str(tiny_study), "--set=train.batch_size=2"]
    command += [f"--set={one}" for one in TINY]
    on_cluster.call("srun", "--partition=low", "--time=10", "--ntasks=2", "--kill-on-bad-exit=1", *command)
    [summary] = list_runs(tiny_study)
    assert summary.state.state is RunState.FINISHED
    start = json.loads(RunPaths(summary.path).start(1).read_text(encoding="utf-8"))
    assert len(start["hosts"]) == 2
    assert start["versions"]["ranks"] == "2"


CLUSTERS = {"slurm": ["--executor", "slurm", "--sbatch=--partition=low"], "ray": ["--executor=ray"]}


@pytest.mark.parametrize("executor", ["slurm", pytest.param("ray", marks=pytest.mark.slow)])
def test_shares_of_a_cohort_give_what_one_machine_gives(
    executor: str, tiny_study: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    env = dict(os.environ)
    if executor == "slurm":
        env |= request.getfixturevalue("on_cluster").env
    else:
        env |= request.getfixturevalue("ray_cluster")
    data, alone, shared = Study(tiny_study).dataset_root, tmp_path / "alone", tmp_path / "shared"
    plan = ["--candidates", "8", "--window", "16"]
    for study, extra in ((alone, []), (shared, [*CLUSTERS[executor], "--shares", "4"])):
        for command in (["analyze", data, study, *extra], ["plan", study, *plan], ["prepare", study, *extra]):
            done = patchcore(*command, env=env)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "did not end well" not in done.stderr
    for name in ("fingerprint.json", "lesions.csv", "cases.jsonl", "measures.jsonl"):
        text = (shared / name).read_text(encoding="utf-8").replace(str(shared), str(alone))
        assert without_times(text) == without_times((alone / name).read_text(encoding="utf-8"))
    files = sorted(path.relative_to(alone) for path in (alone / "store.zarr").rglob("*") if path.is_file())
    assert len(files) > 20
    for file in files:
        if file.name != "zarr.json":
            assert (shared / file).read_bytes() == (alone / file).read_bytes()
    logs = sorted((shared / ".shares").rglob("*.log"))
    assert len(logs) == 8
    assert not list(shared.glob("measures-share-*"))
    # The tasks did the work: one of them alone measured each case.
    assert "of 2 cases measured" in "".join(log.read_text(encoding="utf-8") for log in logs)


def without_times(text: str) -> str:
    return re.sub(r'"(created|command|study_id)": ?"[^"]*"', "", text)


def test_a_share_alone(tiny_study: Path, tmp_path: Path) -> None:
    data, study = Study(tiny_study).dataset_root, tmp_path / "other"
    for number in (1, 2, 3):
        done = patchcore("analyze", data, study, "--share", f"{number}/3")
        assert done.returncode == 0, done.stderr
        assert f"share {number}/3: 2 of 2 cases measured" in done.stdout
    assert not (study / "fingerprint.json").exists()
    assert analyze_dataset(data, study).reused_count == 6
    for wrong, words in (("4/3", "'4/3' is not a share of the cases"), ("x", "'x' is not a share of the cases")):
        done = patchcore("analyze", data, study, "--share", wrong)
        assert done.returncode == 2
        assert words in done.stderr
    done = patchcore("prepare", study, "--shares", "2")
    assert "need --executor" in done.stderr
    done = patchcore("prepare", study, "--executor", "local")
    assert "on one machine all cores are used anyway" in done.stderr
