"""Tests file locks, and facts about processes: start time, signals, boot id and out-of-memory kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from commands import end, hold
from patchcore.errors import LockedError
from patchcore.locks import FileLock, lock_holder
from patchcore.processes import boot_id, process_start
from patchcore.runs.process import oom_kill_counts, send_signal


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    assert lock_holder(path) is None
    process = hold(path)
    assert lock_holder(path) == process.pid
    with pytest.raises(LockedError, match=str(process.pid)):
        FileLock(path).acquire()
    assert lock_holder(path) == process.pid
    end(process)
    assert lock_holder(path) is None
    with FileLock(path):
        assert lock_holder(path) == os.getpid()


def test_asking_for_the_holder_keeps_our_own_lock(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    link = tmp_path / "link.lock"
    with FileLock(path):
        link.symlink_to(path)
        assert lock_holder(path) == os.getpid()
        assert lock_holder(link) == os.getpid()
        with pytest.raises(LockedError):
            FileLock(link).acquire()
        probe = subprocess.run(
            [
                sys.executable,
                "-c",
                f"from patchcore.locks import lock_holder; print(lock_holder({str(path)!r}))",
            ],
            capture_output=True,
            check=True,
            encoding="utf-8",
        )
        assert int(probe.stdout) == os.getpid()


def test_a_forked_child_neither_holds_nor_drops_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    code = textwrap.dedent(
        f"""
        import os
        from patchcore.locks import FileLock, lock_holder
        path = {str(path)!r}
        lock = FileLock(path)
        lock.acquire()
        child = os.fork()
        if child == 0:
            seen = lock_holder(path)
            lock.release()
            os._exit(0 if seen == os.getppid() and lock_holder(path) == os.getppid() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        child = os.fork()
        if child == 0:
            os.read(0, 1)  # a loader worker that outlives its parent
            os._exit(0)
        print(child, flush=True)
        os._exit(0)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    assert process.wait() == 0
    assert process_start(worker) is not None
    assert lock_holder(path) is None
    process.communicate()


def test_a_pid_is_signalled_only_with_its_start_time() -> None:
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        started = process_start(process.pid)
        assert started is not None
        assert not send_signal(process.pid, started - 1, signal.SIGKILL)
        assert process.poll() is None
        assert send_signal(process.pid, started, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not send_signal(process.pid, started, signal.SIGKILL)


def test_the_kernel_reports_of_boot_and_memory() -> None:
    assert boot_id() == boot_id()
    assert (boot_id() != "") == Path("/proc/sys/kernel/random/boot_id").exists()
    assert all(count >= 0 for count in oom_kill_counts().values())
    assert process_start(2**22 + 1) is None
