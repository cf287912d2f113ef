"""The life cycle of a run, with real processes: a supervisor, and a trainer that only counts."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lab import ENV, Lab, audit, exit_record, losses, over, pids, until
from typer.testing import CliRunner

from patchcore.cli.runs import app
from patchcore.errors import LockedError, RunError
from patchcore.locks import lock_holder
from patchcore.runs import (
    RunReader,
    RunState,
    StateWatcher,
    list_runs,
    request,
    run_state,
    start_attempt,
    terminate_orphan,
    wait_for,
)
from patchcore.runs.paths import RunPaths


def test_a_run_finishes(lab: Lab) -> None:
    run = lab.run(steps=30)
    assert run_state(run).state is RunState.QUEUED
    assert start_attempt(run, env=ENV, overrides={"steps": 40}) == 1
    report = until(run, over)
    assert (report.state, report.exit_code, report.run_exit_code) == (RunState.FINISHED, 0, 0)
    view = RunReader(run).poll()
    assert (view.step, view.total_steps, view.bad_lines) == (40, 40, 0)
    assert [validation.step for validation in view.validations] == [10, 20, 30, 40]
    assert exit_record(run)["last_lines"] == ["fake trainer is up"]
    start = json.loads(RunPaths(run).start(1).read_text(encoding="utf-8"))
    assert start["overrides"] == {"steps": 40}
    assert start["versions"]["fake"] == "1"
    assert list_runs(lab.study)[0].best_dsc_mean == pytest.approx(1 - 1 / 40)
    sample = json.loads(RunPaths(run).system(1).read_text(encoding="utf-8").splitlines()[0])
    assert sample["ram_used_bytes"] <= sample["ram_total_bytes"]


def test_a_stop_and_a_second_start(lab: Lab) -> None:
    run = lab.started()
    with pytest.raises(LockedError, match="in use by process"):
        start_attempt(run, env=ENV)
    assert RunPaths(run).newest_attempt() == 1
    answer = wait_for(run, request(run, "stop", author="a tester"), timeout_s=20)
    assert answer is not None
    assert (answer.outcome, answer.by) == ("accepted", "trainer")
    report = until(run, over)
    assert (report.state, report.run_exit_code) == (RunState.STOPPED, 75)
    assert report.reason == "requested by a tester"
    records = {line["what"]: line for line in audit(run)}
    assert records["request"]["author"] == records["answer"]["author"] == "a tester"
    assert records["answer"]["outcome"] == "accepted"
    with pytest.raises(RunError, match="cannot stop: the run is stopped"):
        request(run, "stop")


def test_pause_and_resume_equal_an_unbroken_run(lab: Lab) -> None:
    run = lab.started()
    wait_for(run, request(run, "pause"), timeout_s=20)
    assert until(run, over).state is RunState.PAUSED
    paused_at = RunReader(run).poll().checkpoints[-1].step
    assert paused_at > 0
    steps = paused_at // 10 * 10 + 50
    assert start_attempt(run, env=ENV, overrides={"steps": steps}) == 2
    assert until(run, over).state is RunState.FINISHED
    assert losses(run) == [(step, 1 / step) for step in range(1, steps + 1)]
    view = RunReader(run).poll()
    assert view.attempts == 2
    assert [validation.step for validation in view.validations] == list(range(10, steps + 1, 10))


def test_a_killed_trainer_is_known_and_resumes(lab: Lab) -> None:
    run = lab.started()
    trainer = pids(run)[1]
    while RunReader(run).poll().step < 15:
        time.sleep(0.02)
    os.kill(trainer, signal.SIGKILL)
    report = until(run, over)
    assert report.state is RunState.KILLED
    steps = RunReader(run).poll().step + 50
    record = exit_record(run)
    assert (record["signal"], record["code"], record["out_of_memory"]) == ("SIGKILL", None, False)
    until(run, lambda report: lock_holder(RunPaths(run).supervisor_lock) is None)
    assert start_attempt(run, env=ENV, overrides={"steps": steps}) == 2
    assert until(run, over).state is RunState.FINISHED
    assert losses(run) == [(step, 1 / step) for step in range(1, steps + 1)]


def test_an_orphan_trains_on_and_says_how_it_ended(lab: Lab) -> None:
    run = lab.started(steps=800)
    supervisor, _ = pids(run)
    os.kill(supervisor, signal.SIGKILL)
    report = until(run, lambda report: report.state is not RunState.RUNNING)
    assert report.state is RunState.ORPHANED
    step = RunReader(run).poll().step
    with pytest.raises(LockedError, match="works on the run"):
        start_attempt(run, env=ENV)
    assert RunPaths(run).newest_attempt() == 1
    report = until(run, over)
    assert report.state is RunState.FINISHED
    assert "supervisor was gone" in str(report.reason)
    assert not RunPaths(run).exit(1).exists()
    assert step < RunReader(run).poll().step == 800


def test_an_orphan_can_be_stopped_or_terminated(lab: Lab) -> None:
    obeys, deaf = lab.started(), lab.started(ignore_stop=True)
    for run in (obeys, deaf):
        os.kill(pids(run)[0], signal.SIGKILL)
        until(run, lambda report: report.state is RunState.ORPHANED)
    answer = wait_for(obeys, request(obeys, "stop"), timeout_s=20)
    assert answer is not None
    assert answer.ok
    assert until(obeys, over).state is RunState.STOPPED
    assert not terminate_orphan(obeys)
    assert terminate_orphan(deaf, kill_grace_s=0.1)
    report = run_state(deaf)
    assert report.state is RunState.CRASHED
    assert "no exit record" in str(report.reason)


@pytest.mark.slow
def test_kills_at_random_instants_cost_at_most_a_checkpoint_interval(lab: Lab) -> None:
    run, draw, step = lab.run(step_s=0.005), random.Random(0), 0
    for _ in range(50):
        start_attempt(run, env=ENV)
        until(run, lambda report: report.trainer_pid is not None)
        time.sleep(draw.uniform(0, 0.4))
        os.kill(pids(run)[1], signal.SIGKILL)
        assert until(run, over).state is RunState.KILLED
        until(run, lambda report: lock_holder(RunPaths(run).supervisor_lock) is None)
        view = RunReader(run).poll()
        assert view.bad_lines == 0
        assert losses(run) == [(n, 1 / n) for n in range(1, view.step + 1)]
        assert view.step > step - 10
        step = view.step
    start_attempt(run, env=ENV, overrides={"steps": step + 5})
    assert until(run, over).state is RunState.FINISHED
    assert losses(run) == [(n, 1 / n) for n in range(1, step + 6)]


def test_a_folder_that_cannot_be_written_is_named(lab: Lab) -> None:
    run = lab.run()
    RunPaths(run).attempts.rmdir()
    RunPaths(run).attempts.write_text("")
    with pytest.raises(OSError, match="attempts"):
        start_attempt(run, env=ENV)
    with pytest.raises(RunError, match="not a run folder"):
        start_attempt(lab.study, env=ENV)


def test_both_killed_is_crashed(lab: Lab) -> None:
    run = lab.started()
    for pid in pids(run):
        os.kill(pid, signal.SIGKILL)
    assert until(run, over).state is RunState.CRASHED
    assert start_attempt(run, env=ENV, overrides={"steps": 1}) == 2
    assert until(run, over).state is RunState.FINISHED


def test_a_deaf_trainer_is_killed_in_the_end(lab: Lab) -> None:
    run = lab.started(ignore_stop=True)
    request(run, "stop", {"grace_s": 0.3, "kill_grace_s": 3}, author="a tester")
    assert until(run, lambda report: report.state is not RunState.RUNNING).state is RunState.STOPPING
    report = until(run, over)
    assert (report.state, report.run_exit_code) == (RunState.KILLED, 1)
    assert "a tester requested a stop" in str(report.reason)
    assert [line["signal"] for line in audit(run) if line["what"] == "signal"] == ["SIGTERM", "SIGKILL"]


def test_failures_keep_their_reasons(lab: Lab) -> None:
    fails, full, absent = lab.run(fail_at=3), lab.run(oom_at=3), lab.run()
    record = json.loads((absent / "run.json").read_text(encoding="utf-8")) | {"trainer": "no_such_module"}
    (absent / "run.json").chmod(0o644)
    (absent / "run.json").write_text(json.dumps(record))
    for run in (fails, full, absent):
        start_attempt(run, env=ENV)
    report = until(fails, over)
    assert (report.state, report.exit_code) == (RunState.FAILED, 1)
    assert report.reason == "RuntimeError: failed at step 3"
    assert "failed at step 3" in exit_record(fails)["last_lines"][-1]
    assert until(full, over).state is RunState.OUT_OF_MEMORY
    report = until(absent, over)
    assert report.state is RunState.FAILED
    assert "no_such_module" in str(report.reason)


def test_expired_unreadable_and_old_requests_are_refused(lab: Lab) -> None:
    run = lab.run()
    paths = RunPaths(run)
    old = {"verb": "stop", "author": "a", "t": time.time(), "expires": time.time() + 600}
    (paths.requests_new / "1-old.json").write_text(json.dumps(old))
    start_attempt(run, env=ENV)
    refused = wait_for(run, "1-old", timeout_s=10)
    assert refused is not None
    assert (refused.outcome, refused.by) == ("refused", "supervisor")
    until(run, lambda report: report.state is RunState.RUNNING)
    expired = request(run, "stop", expires_s=-1.0)
    (paths.requests_new / "2-torn.json").write_text('{"verb": "st')
    for identity, outcome in ((expired, "expired"), ("2-torn", "refused")):
        answer = wait_for(run, identity, timeout_s=10)
        assert answer is not None
        assert answer.outcome == outcome
    assert run_state(run).state is RunState.RUNNING
    assert list(paths.requests_new.iterdir()) == []
    wait_for(run, request(run, "stop", {"force": True}), timeout_s=20)
    assert until(run, over).state is RunState.STOPPED


def test_a_heart_elsewhere_is_evaluated_by_our_own_clock(lab: Lab) -> None:
    run = lab.run()
    paths = RunPaths(run)
    paths.attempt(1).mkdir()
    paths.start(1).write_text(json.dumps({"boot_id": "of another host", "host": "far"}))
    now = [0.0]
    watcher = StateWatcher(run, clock=lambda: now[0])

    def look(after_s: float, **status: Any) -> RunState:
        now[0] += after_s
        record = {"attempt": 1, "hb_seq": 1, "state": "running", "t": -1e9, "idle_s": 0.0} | status
        paths.status.write_text(json.dumps(record))
        return watcher.look().state

    assert look(0) is RunState.RUNNING
    assert look(5) is RunState.RUNNING
    assert look(2) is RunState.STALE
    assert look(0, hb_seq=2) is RunState.RUNNING  # it revives
    assert look(170, hb_seq=2) is RunState.STALE
    assert look(11, hb_seq=2) is RunState.PRESUMED_CRASHED
    assert look(100, hb_seq=2, epoch_s=1000.0) is RunState.STALE  # an epoch takes longer
    assert look(0, hb_seq=3, idle_s=181.0) is RunState.STALLED
    assert look(0, hb_seq=4, idle_s=181.0, epoch_s=200.0) is RunState.RUNNING
    assert look(0, hb_seq=5, state="finished") is RunState.FINISHED


def test_a_living_heart_elsewhere_forbids_a_start(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from patchcore.runs import supervisor

    run = lab.run()
    paths = RunPaths(run)
    paths.attempt(1).mkdir()
    paths.start(1).write_text(json.dumps({"boot_id": "of another host", "host": "far"}))
    beat = 0

    def beating(_: float) -> None:
        nonlocal beat
        beat += 1
        paths.status.write_text(json.dumps({"attempt": 1, "hb_seq": beat, "state": "running"}))

    beating(0)
    monkeypatch.setattr(supervisor.time, "sleep", beating)
    with pytest.raises(LockedError, match="on far works on the run"):
        supervisor.Supervisor(run, 2).take()
    assert paths.newest_attempt() == 1
    assert lock_holder(paths.supervisor_lock) is None


VIEWER = """
import os, sys
from pathlib import Path
from rich.console import Console
from patchcore.cli.viewer import watch
from patchcore.runs import start_attempt
run = Path(sys.argv[1])
start_attempt(run)
sys.exit(watch(run, console=Console(markup=False, highlight=False)))
"""


def viewer(run: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", VIEWER, str(run)], env=ENV, stdout=subprocess.PIPE, encoding="utf-8"
    )
    until(run, lambda report: report.state is RunState.RUNNING)
    # After its first line, the viewer handles signals.
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def test_a_killed_viewer_leaves_the_run(lab: Lab) -> None:
    run = lab.run(steps=600)
    with viewer(run) as process:
        process.kill()
    step = RunReader(run).poll().step
    assert until(run, over).state is RunState.FINISHED
    assert step < 600


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_viewer_stops_the_run(lab: Lab, number: signal.Signals) -> None:
    run = lab.run()
    with viewer(run) as process:
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert run_state(run).state is RunState.STOPPED
    assert "stopping at the next step" in out
    assert "validation at step 10: mean DSC 0.9000 (n = 1)" in out or RunReader(run).poll().step < 10


def test_a_second_interrupt_terminates(lab: Lab) -> None:
    run = lab.run(ignore_stop=True)
    with viewer(run) as process:
        process.send_signal(signal.SIGINT)
        until(run, lambda report: report.state is RunState.STOPPING)
        process.send_signal(signal.SIGINT)
        while not any(line["what"] == "signal" for line in audit(run)):
            time.sleep(0.05)
        os.kill(pids(run)[1], signal.SIGKILL)  # the supervisor would do this ten seconds later
        process.communicate(timeout=60)
    assert process.returncode == 1
    assert run_state(run).state is RunState.KILLED


FOREGROUND = """
import sys
from pathlib import Path
from rich.console import Console
from patchcore.cli.viewer import PlainLines
from patchcore.runs import supervise_foreground
run = Path(sys.argv[1])
sys.exit(supervise_foreground(run, on_tick=PlainLines(run, Console()).tick))
"""


def test_the_foreground_passes_signals_on_and_exits_as_the_run(lab: Lab) -> None:
    stopped, finished = lab.run(), lab.run(steps=3)
    commands = [
        subprocess.Popen([sys.executable, "-c", FOREGROUND, str(run)], env=ENV, stdout=subprocess.PIPE)
        for run in (stopped, finished)
    ]
    until(stopped, lambda report: report.state is RunState.RUNNING)
    assert run_state(stopped).supervisor_pid == commands[0].pid
    commands[0].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=60)[0] for process in commands]
    assert [process.returncode for process in commands] == [75, 0]
    assert (run_state(stopped).state, run_state(finished).state) == (RunState.STOPPED, RunState.FINISHED)
    assert b"step 3/3" in outputs[1]
    assert run_state(stopped).reason == "by SIGTERM"


def test_the_runs_commands(lab: Lab) -> None:
    cli = CliRunner()
    run = lab.started()
    name = run.name[-6:]
    for verb in ("checkpoint", "validate", "pause"):
        result = cli.invoke(app, [verb, str(lab.study), name])
        assert result.exit_code == 0, result.output
        assert f"{verb}: accepted" in result.output
    until(run, over)
    listed = json.loads(cli.invoke(app, ["list", str(lab.study), "--json"]).output)
    assert listed[0]["state"]["state"] == "paused"
    assert (
        run.name
        in cli.invoke(
            app,
            ["list", str(lab.study)],
        ).output
    )
    shown = json.loads(cli.invoke(app, ["show", str(run), "--json"]).output)
    assert shown["attempts"][0]["state"] == "paused"
    assert "attempt 1: paused" in cli.invoke(app, ["show", str(lab.study)]).output
    assert cli.invoke(app, ["tail", str(run)]).exit_code == 75
    assert isinstance(cli.invoke(app, ["stop", str(run)]).exception, RunError)
