"""Tests of the dashboard in a real terminal, in a separate tmux server."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import HERE, add_plan, fake_run, start, state_of, wait_until


class Terminal:
    """One tmux server with one window.

    Args:
        socket: Path of the server socket.
    """

    def __init__(self, socket: Path) -> None:
        self._tmux = ["tmux", "-u", "-f", os.devnull, "-S", str(socket)]

    def run(self, *arguments: str) -> str:
        return subprocess.run(
            [*self._tmux, *arguments], check=True, capture_output=True, encoding="utf-8", timeout=20
        ).stdout

    def open(self, study: Path, size: tuple[int, int]) -> None:
        width, height = map(str, size)
        shell = (
            f"exec env TERM=screen-256color PYTHONPATH={shlex.quote(str(HERE))} {sys.executable} -m patchcore "
            f"dashboard {shlex.quote(str(study))}"
        )
        self.run("new-session", "-d", "-s", "test", "-x", width, "-y", height, shell)

    def press(self, *keys: str) -> None:
        self.run("send-keys", "-t", "test", *keys)

    def text(self) -> str:
        return self.run("capture-pane", "-p", "-t", "test")

    def shows(self, text: str) -> None:
        wait_until(lambda: text in self.text(), f"{text!r} on the terminal")

    def kill(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True, timeout=20)

    @property
    def is_open(self) -> bool:
        alive = subprocess.run([*self._tmux, "has-session"], check=False, capture_output=True, timeout=20)
        return alive.returncode == 0


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    if shutil.which("tmux") is None:
        if os.environ.get("CI"):
            pytest.fail("tmux is missing: install it, CI tests the dashboard in a real terminal")
        pytest.skip("tmux is missing")
    # The path of a socket may have only 108 bytes; the folders of pytest are longer on some machines.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="pc-") as folder:
        terminal = Terminal(Path(folder) / "tmux")
        yield terminal
        terminal.kill()


@pytest.mark.parametrize("size", [(80, 24), (200, 50)])
def test_a_run_is_watched_stopped_and_left(study: Path, terminal: Terminal, size: tuple[int, int]) -> None:
    add_plan(study)
    run = fake_run(study, slug="watched", steps=100_000, step_s=0.01)
    start(run)
    try:
        terminal.open(study, size)
        terminal.shows("running")
        terminal.shows("val. mean")
        terminal.press("3")
        terminal.shows("Patch size 12")
        terminal.press("n")
        terminal.shows("Start (ctrl+s)")
        terminal.press("Escape")
        wait_until(lambda: "Start (ctrl+s)" not in terminal.text(), "the end of the form")
        terminal.press("1")
        terminal.shows("Loss")
        terminal.press("s")
        terminal.shows("Stop (y)")
        terminal.press("y")
        terminal.shows("stopped")
        assert state_of(run) == "stopped"
        terminal.press("q")
        wait_until(lambda: not terminal.is_open, "the end of the dashboard")
    finally:
        end(run)


def test_killing_the_terminal_leaves_the_run_and_a_new_dashboard_shows_its_history(
    study: Path, terminal: Terminal
) -> None:
    run = fake_run(study, slug="steady", steps=100_000, step_s=0.01)
    start(run)
    try:
        terminal.open(study, (100, 30))
        terminal.shows("val. mean")
        terminal.kill()
        wait_until(lambda: not terminal.is_open, "the end of the tmux server")
        assert state_of(run) == "running"
        terminal.open(study, (100, 30))
        terminal.shows("running")
        terminal.shows("val. mean")
    finally:
        end(run)


def end(run: Path) -> None:
    """Stop a run if it still runs."""
    from patchcore.errors import RunError
    from patchcore.runs import request

    try:
        request(run, "stop")
    except RunError:
        return
    wait_until(lambda: state_of(run) == "stopped", "the end of the run")
