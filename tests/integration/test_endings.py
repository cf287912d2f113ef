"""Runs end as clusters, terminals and disks end them: the state is true, the exit code is right, nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from lab import ENV, Lab, audit, exit_record, losses, over, pids, until, wait_for
from tiny_training import TINY

from patchcore.errors import LockedError, RunError
from patchcore.locks import lock_holder
from patchcore.runs import RunReader, RunState, StateWatcher, request, run_state, start_attempt, supervise_foreground
from patchcore.runs.inbox import Inbox
from patchcore.runs.paths import RunPaths
from patchcore.runs.supervisor import Supervisor

FOREGROUND = """
import signal, sys
from pathlib import Path
import typer
from patchcore.cli.train import Follower
from patchcore.interrupts import STOP_SIGNALS
follower = Follower(foreground=True)
for run in sys.argv[1:]:
    code = follower.follow(Path(run))
    for number in STOP_SIGNALS if len(sys.argv) > 2 else ():
        signal.raise_signal(number)
try:
    follower.exit(code)
except typer.Exit as end:
    sys.exit(end.exit_code)
"""


def foreground(run: Path, **options: object) -> subprocess.Popen[bytes]:
    """Supervise a run in a process of its own, as ``train --foreground`` does; return when its trainer runs."""
    options = {"stdout": subprocess.DEVNULL} | options
    options = {"env": ENV} | options
    process = subprocess.Popen([sys.executable, "-c", FOREGROUND, str(run)], **options)  # type: ignore[call-overload]
    until(run, lambda report: report.state is RunState.RUNNING)
    return process  # type: ignore[no-any-return]


def check_nothing_lost(run: Path) -> None:
    """The last step was saved, and the resumed run equals one that was never stopped."""
    view = RunReader(run).poll()
    assert view.bad_lines == 0
    assert view.checkpoints[-1].step == view.step
    start_attempt(run, env=ENV, overrides={"steps": view.step + 20})
    assert until(run, over).state is RunState.FINISHED
    assert losses(run) == [(step, 1 / step) for step in range(1, view.step + 21)]


def loading_trainer(run: Path) -> int:
    """Wait until the trainer was started, and return its process id."""
    wait_for(RunPaths(run).audit.exists, "the audit log")
    wait_for(lambda: any(line["what"] == "start" for line in audit(run)), "the trainer")
    return next(int(line["pid"]) for line in audit(run) if line["what"] == "start")


Send = Callable[[int, int, signal.Signals], None]


def to_trainer(supervisor: int, trainer: int, number: signal.Signals) -> None:
    os.kill(trainer, number)


def to_supervisor(supervisor: int, trainer: int, number: signal.Signals) -> None:
    os.kill(supervisor, number)


def to_all(supervisor: int, trainer: int, number: signal.Signals) -> None:
    for pid in (supervisor, trainer):
        os.kill(pid, number)


def to_all_twice(supervisor: int, trainer: int, number: signal.Signals) -> None:
    to_all(supervisor, trainer, number)
    time.sleep(0.05)
    with suppress(ProcessLookupError):  # on a fast machine, the run has ended already
        to_all(supervisor, trainer, number)


def to_group(supervisor: int, trainer: int, number: signal.Signals) -> None:
    os.killpg(trainer, number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("in_foreground", [False, True], ids=["detached", "foreground"])
@pytest.mark.parametrize("send", [to_trainer, to_supervisor, to_all, to_all_twice, to_group])
def test_a_signal_to_any_of_them_stops_with_a_checkpoint(
    lab: Lab, send: Send, in_foreground: bool, number: signal.Signals
) -> None:
    if send is to_all_twice and number is signal.SIGINT:
        pytest.skip("a second interrupt forces the end, on purpose")
    run = lab.run(step_s=0.02) if in_foreground else lab.started(step_s=0.02)
    process = foreground(run) if in_foreground else None
    send(*pids(run), number)
    report = until(run, over)
    assert (report.state, report.run_exit_code) == (RunState.STOPPED, 75)
    assert (exit_record(run)["code"], exit_record(run)["signal"]) == (75, None)
    if process is not None:
        assert process.wait(60) == 75
    until(run, lambda report: lock_holder(RunPaths(run).supervisor_lock) is None)
    check_nothing_lost(run)


def test_a_signal_after_the_end_of_a_run_keeps_its_exit_code_and_starts_no_further_run(lab: Lab) -> None:
    first, second = lab.run(steps=3), lab.run(steps=3)
    done = subprocess.run(
        [sys.executable, "-c", FOREGROUND, str(first), str(second)], env=ENV, capture_output=True, check=False
    )
    assert done.returncode == 75, done.stderr.decode()
    assert run_state(first).state is RunState.FINISHED
    assert RunPaths(second).newest_attempt() is None


def test_a_signal_to_a_trainer_that_still_loads_is_a_stop(lab: Lab) -> None:
    run = lab.run(load_s=60)
    start_attempt(run, env=ENV)
    os.kill(loading_trainer(run), signal.SIGTERM)
    report = until(run, over)
    assert (report.state, report.run_exit_code) == (RunState.STOPPED, 75)
    assert "while the trainer was loading" in str(report.reason)


def test_a_closed_pipe_ends_the_output_and_not_the_run(lab: Lab) -> None:
    run = lab.run()
    process = foreground(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    step = RunReader(run).poll().step
    while RunReader(run).poll().step < step + 100:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 75
    assert run_state(run).state is RunState.STOPPED
    check_nothing_lost(run)


def test_a_pipe_that_nobody_reads_holds_up_neither_signals_nor_the_end(lab: Lab) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, b"\n" * 65536)
    except BlockingIOError:
        os.set_blocking(write, True)
    run = lab.run()
    process = foreground(run, stdout=write)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    os.close(read)
    os.close(write)
    assert run_state(run).state is RunState.STOPPED


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_under_the_log_ends_nothing(lab: Lab) -> None:
    run = lab.run(steps=60)
    with Path("/dev/full").open("wb", buffering=0) as full:
        process = foreground(run, stdout=full, stderr=full)
        assert process.wait(60) == 0
    assert run_state(run).state is RunState.FINISHED


def test_a_finished_run_is_not_started_again(lab: Lab) -> None:
    run = lab.run(steps=3)
    start_attempt(run, env=ENV)
    until(run, over)
    until(run, lambda report: lock_holder(RunPaths(run).supervisor_lock) is None)
    for start in (start_attempt, supervise_foreground):
        with pytest.raises(RunError, match=r"the run is finished.*nothing to resume"):
            start(run, env=ENV)
    assert RunPaths(run).newest_attempt() == 1
    assert run_state(run).state is RunState.FINISHED


def test_a_trainer_that_does_not_end_does_not_fill_the_log(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    run = lab.run()
    supervisor = Supervisor(run, 1, env=ENV)
    supervisor.take()
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, number: sent.append(number))
    monkeypatch.setattr(os, "killpg", lambda _, number: sent.append(number))
    for _ in range(50):
        supervisor._send(0, signal.SIGKILL)
    assert len(sent) == 50
    assert [line["signal"] for line in audit(run) if line["what"] == "signal"] == ["SIGKILL"]


def test_a_late_trainer_of_an_older_attempt_gives_way(lab: Lab) -> None:
    gates = [lab.study.parent / f"gate{number}" for number in (1, 2)]
    run = lab.run(load_until=str(gates[0]))
    start_attempt(run, env=ENV)
    loading_trainer(run)
    supervisor = run_state(run).supervisor_pid
    assert supervisor
    os.kill(supervisor, signal.SIGKILL)  # its trainer goes on loading
    until(run, lambda report: report.state is RunState.CRASHED)
    assert start_attempt(run, env=ENV, overrides={"load_until": str(gates[1])}) == 2
    gates[0].touch()
    gives_way = "attempt 1 is over: attempt 2 has begun"
    wait_for(lambda: gives_way in RunPaths(run).stdout(1).read_text(), "the late trainer to give way")
    gates[1].touch()
    report = until(run, lambda report: report.state is RunState.RUNNING or report.state.is_over)
    assert (report.state, report.attempt) == (RunState.RUNNING, 2)
    request(run, "stop")
    assert until(run, over).state is RunState.STOPPED


def test_an_attempt_is_not_begun_beside_a_trainer_that_was_late(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from patchcore.runs import supervisor

    run = lab.run()
    answers = iter([None, 4711, None])  # it gives way as soon as it sees the new attempt
    monkeypatch.setattr(supervisor, "lock_holder", lambda _: next(answers))
    with pytest.raises(LockedError, match="trainer process 4711 works on the run"):
        Supervisor(run, 1).take()
    assert RunPaths(run).newest_attempt() is None


def test_a_trainer_that_cannot_be_started_is_recorded(lab: Lab) -> None:
    run = lab.run()
    supervisor = Supervisor(run, 1, env=ENV)
    supervisor.take()
    RunPaths(run).stdout(1).mkdir()
    record = supervisor.supervise()
    assert record["state"] == "failed"
    assert "the trainer did not start" in str(run_state(run).reason)
    assert lock_holder(RunPaths(run).supervisor_lock) is None


def test_exit_codes_are_known_where_sigchld_is_ignored(lab: Lab) -> None:
    run = lab.run(steps=3)
    code = f"import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n{FOREGROUND}"
    process = subprocess.run([sys.executable, "-c", code, str(run)], env=ENV, capture_output=True, check=False)
    assert process.returncode == 0, process.stderr
    assert exit_record(run)["code"] == 0


def test_a_machine_that_was_restarted_has_no_run(lab: Lab) -> None:
    run = lab.started()
    for pid in pids(run):
        os.kill(pid, signal.SIGKILL)
    until(run, over)
    start = RunPaths(run).start(1)
    record = json.loads(start.read_text()) | {"boot_id": "of an earlier boot"}
    for machine, expected in (("this one", RunState.CRASHED), ("another one", RunState.RUNNING)):
        start.write_text(json.dumps(record | {"machine": machine}))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("patchcore.runs.state.machine_id", lambda: "this one")
            report = run_state(run)
        assert report.state is expected
    for change in ({"host": "elsewhere"}, {"boot_id": None}):
        start.write_text(json.dumps(record | change))
        assert run_state(run).state is RunState.RUNNING  # for now: its heartbeat has not been missed yet


def test_a_signal_ends_a_trainer_that_does_not_stop(lab: Lab) -> None:
    run = lab.run(ignore_stop=True)
    process = foreground(run, env={**ENV, "PATCHCORE_STOP_GRACE_S": "0.5"})
    process.terminate()
    process.wait(60)
    report = run_state(run)
    assert report.state is RunState.KILLED
    assert "SIGTERM" in str(report.reason)


def test_a_finished_run_is_refused_though_its_supervisor_wrote_no_exit_record(lab: Lab) -> None:
    run = lab.run(steps=3)
    start_attempt(run, env=ENV)
    until(run, over)
    wait_for(lambda: lock_holder(RunPaths(run).supervisor_lock) is None, "the end of the supervisor")
    RunPaths(run).exit(1).unlink()
    assert run_state(run).state is RunState.FINISHED
    with pytest.raises(RunError, match="finished"):
        Supervisor(run, 2).take()
    assert not lock_holder(RunPaths(run).supervisor_lock)


def test_locks_of_another_container_or_a_dead_file_system_prove_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    from patchcore.runs import state

    run = lab.started()
    for pid in pids(run):
        os.kill(pid, signal.SIGKILL)
    until(run, over)
    now = [0.0]
    status = RunPaths(run).status
    last = json.loads(status.read_text())
    status.write_text(json.dumps(last | {"mono": time.monotonic()}))
    with monkeypatch.context() as patch:
        patch.setattr(state, "pid_namespace", lambda: "of another container")
        watcher = StateWatcher(run, clock=lambda: now[0])
        assert watcher.look().state is RunState.RUNNING
        now[0] = 1000.0
        assert watcher.look().state is RunState.PRESUMED_CRASHED
        # One look is enough where the heartbeat was written by the clock of this boot; of another boot it says nothing.
        status.write_text(json.dumps(last | {"mono": time.monotonic() - 1000}))
        assert run_state(run).state is RunState.PRESUMED_CRASHED
        status.write_text(json.dumps(last | {"mono": time.monotonic() - 1000, "boot_id": "of another boot"}))
        assert run_state(run).state is RunState.RUNNING
    status.write_text(json.dumps(last | {"mono": time.monotonic()}))

    def stale(_: object) -> int:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(state, "lock_holder", stale)
    assert run_state(run).state is RunState.RUNNING


def test_a_clock_that_is_set_anew_expires_no_request(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from patchcore.runs import inbox

    run = lab.started(ignore_stop=True)
    identity = request(run, "stop", {"grace_s": 100}, expires_s=100)
    reader = Inbox(RunPaths(run), by="trainer")
    noon = time.time()
    for jump_s in (-1e6, 1e6):
        monkeypatch.setattr(inbox.time, "time", lambda jump_s=jump_s: noon + jump_s)
        assert [waiting.id for waiting in reader.pending()] == [identity]
    later = time.monotonic() + 101
    monkeypatch.setattr(inbox.time, "monotonic", lambda: later)
    assert reader.pending() == []


def test_answers_are_read_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from patchcore.runs import inbox

    run = lab.run()
    reader = Inbox(RunPaths(run), by="trainer")
    for number in range(20):
        record = {"outcome": "accepted" if number == 7 else "done", "verb": "checkpoint"}
        (RunPaths(run).requests_done / f"{number:02d}.json").write_text(json.dumps(record))
    assert len(reader.answered()) == 20
    read: list[str] = []
    real = inbox.read_answer
    monkeypatch.setattr(inbox, "read_answer", lambda paths, identity: (read.append(identity), real(paths, identity))[1])
    assert len(reader.answered()) == 20
    assert read == ["07"]


def test_a_stopped_and_continued_run_is_the_same_run(lab: Lab) -> None:
    run = lab.started()
    supervisor, trainer = pids(run)
    for pid in (trainer, supervisor):
        os.kill(pid, signal.SIGSTOP)
    step = RunReader(run).poll().step
    watcher = StateWatcher(run, clock=iter([0.0, 1000.0]).__next__)
    watcher.look()
    assert watcher.look().state is RunState.STALLED
    for pid in (supervisor, trainer):
        os.kill(pid, signal.SIGCONT)
    while RunReader(run).poll().step <= step:
        time.sleep(0.02)
    os.kill(supervisor, signal.SIGTERM)
    assert until(run, over).state is RunState.STOPPED
    until(run, lambda report: lock_holder(RunPaths(run).supervisor_lock) is None)
    check_nothing_lost(run)


@pytest.mark.parametrize("mode", ["--foreground", pytest.param("--detach", marks=pytest.mark.slow)])
def test_a_time_limit_of_a_cluster_stops_a_real_training(mode: str, tiny_study: Path) -> None:
    """SIGTERM to every process of the run at once, while nobody reads its output; then the run continues exactly."""
    settings = [f"--set={one}" for one in (*TINY, "train.steps=40", "train.steps_per_epoch=100")]
    command = [sys.executable, "-m", "patchcore", "train", str(tiny_study), *settings, mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        [run] = (tiny_study / "runs").iterdir()
        process.stdout.close()
        until(run, lambda report: report.trainer_pid is not None)
        while RunReader(run).poll().step < 3:
            time.sleep(0.02)
        for pid in pids(run):
            os.kill(pid, signal.SIGTERM)
        code = process.wait(120)
    assert code == (75 if mode == "--foreground" else 0)
    report = until(run, over)
    assert (report.state, report.run_exit_code) == (RunState.STOPPED, 75)
    assert exit_record(run)["code"] == 75
    stopped_at = RunReader(run).poll().checkpoints[-1].step
    assert stopped_at == losses(run)[-1][0]
    until(run, lambda report: lock_holder(RunPaths(run).supervisor_lock) is None)
    done = subprocess.run([sys.executable, "-m", "patchcore", "runs", "resume", str(run)], check=False)
    assert done.returncode == 0
    assert [step for step, _ in losses(run)] == list(range(1, 41))
    start = json.loads(RunPaths(run).start(2).read_text())
    assert start["resumed_from_step"] == stopped_at + 1
