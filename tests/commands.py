"""Runs patchcore, and a process that holds a lock, as a user's shell would."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

_HOLD = """
import sys
from patchcore.locks import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def patchcore(
    *arguments: object, env: Mapping[str, str] | None = None, timeout_s: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run a command of patchcore to its end, with an empty input."""
    return subprocess.run(
        [sys.executable, "-m", "patchcore", *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=timeout_s,
        check=False,
        env=env,
    )


def patchcore_here(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command of patchcore in this process, which has imported torch already."""
    from patchcore.cli import main

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([*map(str, arguments)])
    return subprocess.CompletedProcess([*arguments], code, out.getvalue(), err.getvalue())  # type: ignore[list-item]


def hold(path: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a process that holds a lock until its input ends or it is killed; return when it holds it."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and wait for its end."""
    process.kill()
    process.communicate()
