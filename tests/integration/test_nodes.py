"""Ranks of one training that a launcher has started: as on two hosts, by torchrun, and what happens if one is lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lab
import pytest
from lab import kill_tree
from tiny_training import TINY

from commands import patchcore
from patchcore.errors import RunError
from patchcore.launched import Launched, launched
from patchcore.runs import RunReader, RunState, list_runs, run_state
from patchcore.runs.paths import RunPaths
from patchcore.training import lifeline, meeting
from patchcore.training.meeting import Guest, Host

Losses = Callable[[Path], dict[int, float]]
ADDRESS = "127.0.0.2"
"""Where rank 0 listens: an address that is not the loopback interface's usual one."""
SETTINGS = [f"--set={one}" for one in (*TINY, "model.dropout=0", "train.batch_size=4")]
LONG = ["--set=train.steps=100000", "--set=train.steps_per_epoch=3", "--set=validation.every_epochs=99999"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


class Hosts:
    """Starts the two ranks of a training as a launcher on two hosts does."""

    def __init__(self, logs: Path) -> None:
        self.port = free_port()
        self._logs = logs
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: object, ranks: int = 2) -> list[subprocess.Popen[bytes]]:
        processes = []
        for rank in range(ranks):
            place = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}
            place |= {"MASTER_ADDR": ADDRESS, "MASTER_PORT": self.port}
            with (self._logs / f"rank{rank}.log").open("ab") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "patchcore", *map(str, arguments)],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=os.environ | {key: str(value) for key, value in place.items()},
                        start_new_session=True,
                    )
                )
        self._started += processes
        return processes

    def said(self, rank: int) -> str:
        return (self._logs / f"rank{rank}.log").read_text(encoding="utf-8")

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                kill_tree(process.pid)
                process.wait()


def wait_for(is_so: Callable[[], object], what: str = "the other side") -> None:
    lab.wait_for(is_so, what)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    hosts = Hosts(tmp_path)
    yield hosts
    hosts.end()


def only_run(study: Path) -> Path:
    wait_for(lambda: len(list_runs(study)) == 1, "the run")
    return list_runs(study)[0].path


def start_of(run: Path, attempt: int) -> dict[str, Any]:
    return json.loads(RunPaths(run).start(attempt).read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_two_hosts_train_what_one_host_trains(hosts: Hosts, tiny_study: Path, losses: Losses) -> None:
    first, second = hosts.start("train", tiny_study, *SETTINGS)
    assert first.wait(timeout=240) == 0, hosts.said(0)
    assert second.wait(timeout=60) == 0, hosts.said(1)
    assert f"rank 1 of 2: joins rank 0 at {ADDRESS} port {hosts.port}" in hosts.said(1)
    run = only_run(tiny_study)
    assert run_state(run).state is RunState.FINISHED
    here = start_of(run, 1)
    assert [one["host"] for one in here["hosts"]] == [here["host"]] * 2
    assert [one["boot_id"] for one in here["hosts"]] == [here["boot_id"]] * 2
    assert here["hosts"][1]["pid"] == second.pid
    alone = patchcore("train", tiny_study, "--foreground", *SETTINGS, "--set=train.ranks=2", "--set=train.threads=1")
    assert alone.returncode == 0, alone.stderr
    other = next(one.path for one in list_runs(tiny_study) if one.path != run)
    assert losses(run) == pytest.approx(losses(other), rel=1e-4)


def test_a_lost_host_is_an_interruption_and_the_run_goes_on(hosts: Hosts, tiny_study: Path) -> None:
    first, second = hosts.start("train", tiny_study, *SETTINGS, *LONG)
    run = only_run(tiny_study)
    wait_for(lambda: RunReader(run).poll().step > 4)
    kill_tree(second.pid)
    assert first.wait(timeout=60) == 1, hosts.said(0)
    report = run_state(run)
    assert report.state is RunState.KILLED
    assert "rank 1 of 2 on" in str(report.reason)
    assert "was ended from outside" in str(report.reason)

    # Both continue, and then the host of rank 0 is lost: nobody is left who could say so.
    first, second = hosts.start("runs", "resume", run)
    before = RunReader(run).poll().step
    wait_for(lambda: run_state(run).state is RunState.RUNNING and RunReader(run).poll().step > before + 2)
    assert (start_of(run, 2)["resumed_from_step"] or 0) > 0
    kill_tree(first.pid)
    assert second.wait(timeout=60) == 1
    assert "rank 1: rank 0 has ended" in hosts.said(1)
    assert run_state(run).state is RunState.CRASHED

    # Slurm sends a signal to every task: rank 0 alone answers it, with a checkpoint.
    first, second = hosts.start("runs", "resume", run)
    before = RunReader(run).poll().step
    wait_for(lambda: run_state(run).state is RunState.RUNNING and RunReader(run).poll().step > before + 2)
    for process in (second, first):
        process.send_signal(signal.SIGTERM)
    assert first.wait(timeout=60) == 75, hosts.said(0)
    assert second.wait(timeout=60) == 0, hosts.said(1)
    assert run_state(run).state is RunState.STOPPED
    assert len(start_of(run, 3)["hosts"]) == 2


def test_a_stop_while_rank_0_waits_for_the_others(hosts: Hosts, tiny_study: Path) -> None:
    [first] = hosts.start("train", tiny_study, *SETTINGS, ranks=1)
    run = only_run(tiny_study)
    wait_for(lambda: RunReader(run).poll().phase == "wait for 1 of 2 ranks")
    assert patchcore("runs", "stop", run).returncode == 0
    assert first.wait(timeout=60) == 75
    assert run_state(run).state is RunState.STOPPED


def test_torchrun(tiny_study: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    command += [sys.executable, "-m", "patchcore", "train", str(tiny_study), *SETTINGS]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert run_state(only_run(tiny_study)).state is RunState.FINISHED


def test_an_error_of_another_rank_is_reported_by_rank_0(hosts: Hosts, tiny_study: Path, tmp_path: Path) -> None:
    (tmp_path / "one_rank_fails.py").write_text(
        "import os\nfrom torch import nn\n"
        "def build(in_channels, out_channels, window_size, patch_size):\n"
        "    if os.environ['RANK'] == '1' and os.environ.get('PATCHCORE_TEST'):\n"
        "        raise ValueError('no network here')\n"
        "    return nn.Conv3d(in_channels, out_channels, 3, padding=1)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        patch.setenv("PATCHCORE_TEST", "1")
        first, second = hosts.start("train", tiny_study, *SETTINGS, "--set=model.network=one_rank_fails:build")
    assert first.wait(timeout=120) == 1
    assert second.wait(timeout=60) == 1
    report = run_state(only_run(tiny_study))
    assert report.state is RunState.FAILED
    assert "no network here" in str(report.reason)


@pytest.mark.parametrize(
    ("arguments", "changes", "words"),
    [
        (["--detach"], {}, "--detach and --fold all have no meaning"),
        (["--set=train.ranks=4"], {}, "has started 2 processes"),
        (["--set=train.batch_size=3"], {}, "cannot be divided among 2 ranks"),
        ([], {"MASTER_ADDR": ""}, "MASTER_ADDR is not"),
        ([], {"RANK": "2"}, "RANK is 2 of WORLD_SIZE 2"),
        ([], {"MASTER_PORT": "x"}, "MASTER_PORT is 'x'"),
        ([], {"TORCHELASTIC_RESTART_COUNT": "1"}, "patchcore runs resume"),
    ],
)
def test_refusals(tiny_study: Path, arguments: list[str], changes: Mapping[str, str], words: str) -> None:
    place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": ADDRESS, "MASTER_PORT": "20001"} | changes
    done = patchcore("train", tiny_study, *SETTINGS, *arguments, env=os.environ | place)
    assert words in done.stderr, done.stdout + done.stderr
    assert done.returncode != 0


def place_of(rank: int, port: int, address: str = ADDRESS) -> Launched:
    return Launched(rank, 2, 0, 1, address, port)


def test_who_meets_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    ends: list[str | None] = []
    (tmp_path / "run.json").write_text("{}")
    with Host(place_of(0, port), tmp_path, 3) as host:
        assert host.lifelines.missing == [1]
        # A process that does not know the secret is not one of the ranks.
        stranger = lifeline.Lifeline(ADDRESS, host.lifelines.port, 1, "wrong", ends.append)
        wait_for(lambda: ends == ["rank 0 has ended"])
        stranger.close()
        assert host.lifelines.missing == [1]
        guest = Guest(place_of(1, port), ends.append)
        assert (guest.run, guest.attempt) == (tmp_path, 3)
        hosts = host.wait(lambda _: None)
        assert [one["pid"] for one in hosts] == [os.getpid()] * 2
        guest.lifeline.say("it burns")
        guest.lifeline.close()
        wait_for(lambda: bool(host.lifelines.lost()))
        [lost] = host.lifelines.lost()
        assert (lost.rank, lost.error) == (1, "it burns")
        with pytest.raises(RunError, match=r"cannot listen at 127\.0\.0\.2 port"):
            Host(place_of(0, port), tmp_path, 1)
    assert len(ends) == 1
    port = free_port()
    with Host(place_of(0, port), tmp_path / "elsewhere", 1) as host, pytest.raises(RunError, match="does not exist on"):
        Guest(place_of(1, port), ends.append)
    monkeypatch.setattr(meeting, "_JOIN_S", 0.0)
    with Host(place_of(0, free_port()), tmp_path, 1) as host, pytest.raises(RunError, match="did not join within"):
        host.wait(lambda _: None)
    monkeypatch.setattr(meeting, "_CONNECT_S", 1.0)
    with pytest.raises(RunError, match="did not answer"):
        Guest(place_of(1, free_port()), ends.append)


def test_a_silent_host_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifeline, "LOST_S", 0.5)
    with lifeline.Lifelines(ADDRESS, 2) as host:
        with socket.create_connection((ADDRESS, host.port)) as connection:
            connection.sendall(json.dumps({"rank": 1, "secret": host.secret, "host": "far"}).encode() + b"\n")
            wait_for(lambda: bool(host.lost()))
        assert (host.lost()[0].how, host.lost()[0].error) == ("on far has not answered for 0 s", None)


def test_an_address_that_means_this_host_only(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 1))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(RunError, match=r"node1, is 127\.0\.1\.1 on its own host"):
        lifeline.address_of("node1", 1, own=True)
    assert lifeline.address_of("node1", 1, own=False) == "127.0.1.1"


def test_the_place_that_srun_gives(tmp_path: Path) -> None:
    step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "2"}
    step |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_JOB_ID": "77"}
    place = launched(step | {"MASTER_ADDR": "10.0.0.5", "SLURM_CPUS_PER_TASK": "4"})
    assert place == Launched(2, 3, 0, 1, "10.0.0.5", 20077, by="srun", threads=4)
    assert launched(step | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    # The batch script itself is not a step.
    assert launched({key: value for key, value in step.items() if key != "SLURM_STEP_ID"}) is None
    alone = launched(step | {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_TASKS_PER_NODE": "3", "SLURM_NODEID": "0"})
    assert alone is not None
    assert (alone.address, alone.local_world) == ("127.0.0.1", 3)


def test_ranks_of_both_kinds_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from patchcore.training.ranks import rank_of_environment

    monkeypatch.setenv("PATCHCORE_RANK", "3")
    assert rank_of_environment() == 3
    for key, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": ADDRESS, "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(key, value)
    assert rank_of_environment() == 1
