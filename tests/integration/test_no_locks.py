"""A file system without locks (NFS without lockd, Lustre without flock): a clear error, or work with ``--no-locks``."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import commands
from patchcore.errors import LockedError, NoLocksError
from patchcore.locks import NO_LOCKS, FileLock, check_locks, lock_holder
from patchcore.phantoms.make import make_phantoms
from patchcore.runs import RunState, new_run, request, run_state, start_attempt

TESTS = Path(__file__).resolve().parents[1]
CODES = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
PATHS = (TESTS / "no_locks", TESTS, TESTS.parent / "python")
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATHS))}


def patchcore(*arguments: object, code: int = errno.ENOLCK) -> subprocess.CompletedProcess[str]:
    return commands.patchcore(*arguments, env=ENV | {"PATCHCORE_TEST_LOCK_ERRNO": str(code)})


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setattr(fcntl, "fcntl", refuse)


@pytest.mark.usefixtures("refusing")
def test_the_error_names_path_reason_and_remedy_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(NoLocksError, match="does not support locks") as caught:
        FileLock(tmp_path / "x.lock").acquire()
    assert str(tmp_path) in str(caught.value)
    assert "--no-locks" in str(caught.value)
    with pytest.raises(NoLocksError):
        check_locks(tmp_path / "not" / "yet" / "there")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "y.lock").touch()
    with pytest.raises(NoLocksError):
        lock_holder(tmp_path / "y.lock")


def test_a_folder_with_locks_is_left_as_it_was(tmp_path: Path) -> None:
    check_locks(tmp_path / "study")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("refusing")
def test_without_locks_processes_of_this_machine_are_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NO_LOCKS, "1")
    path = tmp_path / "x.lock"
    check_locks(tmp_path)
    with FileLock(path):
        assert lock_holder(path) == os.getpid()
        with pytest.raises(LockedError, match=str(os.getpid())):
            FileLock(path).acquire()
    assert lock_holder(path) is None
    other = commands.hold(path, ENV | {NO_LOCKS: "1"})
    assert lock_holder(path) == other.pid
    with pytest.raises(LockedError, match=f"in use by process {other.pid}"):
        FileLock(path).acquire()
    commands.end(other)
    # The lock of a process that has ended is taken over.
    assert lock_holder(path) is None
    with FileLock(path):
        assert lock_holder(path) == os.getpid()


@pytest.mark.usefixtures("refusing")
def test_a_lock_of_another_machine_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NO_LOCKS, "1")
    owner = {"pid": 1, "started": 1, "boot_id": "of another machine", "pid_namespace": "pid:[1]"}
    (tmp_path / "x.lock.owner").write_text(json.dumps(owner), encoding="utf-8")
    assert lock_holder(tmp_path / "x.lock") == 0
    with pytest.raises(LockedError, match=r"another machine.*delete .*x\.lock\.owner"):
        FileLock(tmp_path / "x.lock").acquire()


@pytest.mark.parametrize("code", CODES)
def test_commands_leave_no_half_study(tmp_path: Path, code: int) -> None:
    make_phantoms(tmp_path / "data", cases=2, preset="large", shape=(40, 40, 20), spacing=(3.0, 3.0, 6.0))
    done = patchcore("analyze", tmp_path / "data", tmp_path / "study", code=code)
    assert done.returncode == 1
    assert "does not support locks" in done.stderr
    assert "--no-locks" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "study").exists()
    assert patchcore("phantom", tmp_path / "more", "--cases", 1, code=code).returncode == 1
    assert not (tmp_path / "more").exists()
    if code != CODES[0]:
        return
    done = patchcore("analyze", tmp_path / "data", tmp_path / "study", "--no-locks", code=code)
    assert done.returncode == 0, done.stderr
    assert "kept apart" in done.stderr
    assert patchcore("--no-locks", "plan", tmp_path / "study", code=code).returncode == 0
    assert patchcore("prepare", tmp_path / "study", code=code).returncode == 1
    assert patchcore("prepare", tmp_path / "study", "--no-locks", code=code).returncode == 0


def test_a_run_lives_and_stops_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NO_LOCKS, "1")
    config = {"steps": 100_000, "step_s": 0.01}
    run = new_run(
        tmp_path / "study", kind="train", config=config, plan={}, seed=0, slug="fake", argv=[], trainer="fake_trainer"
    )
    start_attempt(run, env=ENV | {NO_LOCKS: "1"})
    wait(run, RunState.RUNNING)
    with pytest.raises(LockedError):
        start_attempt(run, env=ENV | {NO_LOCKS: "1"})
    request(run, "stop")
    wait(run, RunState.STOPPED)
    assert run_state(run).state is RunState.STOPPED


def wait(run: Path, state: RunState) -> None:
    deadline = time.monotonic() + 60
    while run_state(run).state is not state:
        assert time.monotonic() < deadline, run_state(run).label
        time.sleep(0.05)


RACE = """
import sys, time
from pathlib import Path
from patchcore.errors import LockedError
from patchcore.locks import FileLock
lock, inside = FileLock(sys.argv[1]), Path(sys.argv[2])
try:
    lock.acquire()
except LockedError as error:
    assert "another machine" not in str(error), error
    sys.exit(0)
(inside / str(time.time_ns())).touch()
print("held", flush=True)
sys.stdin.read()
"""


def test_of_processes_that_race_for_a_stale_lock_one_holds_it(tmp_path: Path) -> None:
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            "import json; from patchcore.locks import _this_process; print(json.dumps(_this_process()))",
        ],
        capture_output=True,
        check=True,
        encoding="utf-8",
        env=ENV,
    ).stdout
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "x.lock.owner").write_text(ended, encoding="utf-8")
        (folder / "inside").mkdir()
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", RACE, str(folder / "x.lock"), str(folder / "inside")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=ENV | {NO_LOCKS: "1"},
            )
            for _ in range(4)
        ]
        deadline = time.monotonic() + 60
        while sum(racer.poll() is not None for racer in racers) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert len(list((folder / "inside").iterdir())) == 1
        errors = [racer.communicate()[1] for racer in racers]
        assert not any(errors), errors
        # Released, and nothing is left but the folder of this test.
        assert [path.name for path in folder.iterdir()] == ["inside"] or lock_holder(folder / "x.lock") is None


@pytest.mark.usefixtures("refusing")
def test_a_lock_of_another_container_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NO_LOCKS, "1")
    with FileLock(tmp_path / "x.lock"):
        owner = json.loads((tmp_path / "x.lock.owner").read_text(encoding="utf-8"))
    owner["pid_namespace"], owner["pid"] = "pid:[1]", 1
    (tmp_path / "x.lock.owner").write_text(json.dumps(owner), encoding="utf-8")
    with pytest.raises(LockedError, match="another container"):
        FileLock(tmp_path / "x.lock").acquire()


def test_a_process_with_locks_respects_one_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = commands.hold(tmp_path / "x.lock", ENV | {NO_LOCKS: "1"})
    monkeypatch.delenv(NO_LOCKS, raising=False)
    assert lock_holder(tmp_path / "x.lock") == other.pid
    with pytest.raises(LockedError, match=f"in use by process {other.pid}"):
        FileLock(tmp_path / "x.lock").acquire()
    commands.end(other)
    with FileLock(tmp_path / "x.lock"):
        pass
