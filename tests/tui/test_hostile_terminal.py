"""The dashboard survives its terminal: any bytes, signals, resizes, one that answers nothing or takes nothing."""

from __future__ import annotations

import fcntl
import os
import pty
import random
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import HERE, wait_until

from patchcore.tui.terminal import without_old_mouse_reports

# Keys that quit, stop or start something would end the test for a good reason.
KEYS = set(b"qnspr:\r\n\t\x03\x11\x10\x1a\x1c ")


class Pty:
    """A pseudoterminal with the dashboard in it. It answers none of the questions that programs ask a terminal."""

    def __init__(self, study: Path, *, reads: bool = True) -> None:
        self.main, self.inner = pty.openpty()
        self.resize(100, 30)
        self.before = termios.tcgetattr(self.inner)
        self.output = bytearray()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "patchcore", "dashboard", str(study)],
            stdin=self.inner,
            stdout=self.inner,
            stderr=self.inner,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(HERE), "TERM": "xterm-256color"},
        )
        self._ended = threading.Event()
        if reads:
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()

    def _read(self) -> None:
        while not self._ended.is_set():
            if select.select([self.main], [], [], 0.1)[0]:
                try:
                    self.output += os.read(self.main, 1 << 16)
                except OSError:
                    return

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def send(self, data: bytes) -> None:
        os.write(self.main, data)

    def shows(self, text: bytes) -> None:
        wait_until(lambda: text in bytes(self.output), f"{text!r} on the terminal")

    def seen_after(self, action: bytes, text: bytes) -> None:
        """Send keys and wait until a text appears after them."""
        start = len(self.output)
        self.send(action)
        wait_until(lambda: text in bytes(self.output[start:]), f"{text!r} after {action!r}")

    def ends(self) -> int:
        code = self.process.wait(timeout=60)
        # What was written last may still be in the pseudoterminal.
        wait_until(lambda: not select.select([self.main], [], [], 0)[0] or self._ended.is_set(), "all output read")
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        # pytest shows it if the test failed.
        print(bytes(self.output[-3000:]).decode(errors="replace"))
        self._ended.set()
        for handle in (self.main, self.inner):
            try:
                os.close(handle)
            except OSError:
                continue

    def is_restored(self) -> None:
        """Check that the normal screen, the cursor, the mouse and the line mode are back."""
        text = bytes(self.output)
        for on, off in (
            (b"\x1b[?1049h", b"\x1b[?1049l"),
            (b"\x1b[?25l", b"\x1b[?25h"),
            (b"\x1b[?1003h", b"\x1b[?1003l"),
        ):
            assert text.rfind(off) > text.rfind(on) >= 0, (on, text[-300:])
        now = termios.tcgetattr(self.inner)
        assert now[:4] == self.before[:4]
        assert b"Traceback" not in text


@pytest.fixture
def opened(study: Path) -> Iterator[Pty]:
    terminal = Pty(study)
    try:
        terminal.shows(b"No runs")
        yield terminal
    finally:
        terminal.close()


def test_an_old_mouse_report_is_not_keys(opened: Pty) -> None:
    # A byte above 0x7f after ESC [ M, as tmux and VS Code send after a reattach; split over two reads, too.
    opened.send(b"\x1b[M \xff\xc3")
    opened.send(b"\x1b[M")
    time.sleep(0.3)
    opened.send(b"q\xa0\xa1")
    opened.send(b"\xff\xfe\x80\xc0")
    opened.seen_after(b"?", b"Help")
    assert opened.process.poll() is None
    opened.process.send_signal(signal.SIGTERM)
    assert opened.ends() == 128 + signal.SIGTERM
    opened.is_restored()


@pytest.mark.parametrize("seed", range(3))
def test_any_bytes_leave_the_dashboard_alive(opened: Pty, seed: int) -> None:
    source = random.Random(seed)
    for _ in range(60):
        kind = source.randrange(4)
        if kind == 0:
            data = bytes(source.randrange(256) for _ in range(source.randrange(1, 60)))
        elif kind == 1:
            data = b"\x1b[" + bytes(source.choice(b"0123456789;<>?=M") for _ in range(source.randrange(1, 20)))
        elif kind == 2:
            data = b"\x1b]" + bytes(source.randrange(256) for _ in range(9))
        else:
            data = b"\x1b[<" + b";".join(str(source.randrange(10**6)).encode() for _ in range(3)) + b"M"
        opened.send(bytes(byte for byte in data if byte not in KEYS))
    # An unfinished sequence may swallow what follows: end it, then ask for something.
    time.sleep(0.5)
    assert opened.process.poll() is None
    assert b"Traceback" not in bytes(opened.output)
    opened.process.send_signal(signal.SIGTERM)
    assert opened.ends() == 128 + signal.SIGTERM
    opened.is_restored()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_restores_the_terminal(opened: Pty, number: signal.Signals) -> None:
    opened.process.send_signal(number)
    assert opened.ends() == 128 + number
    opened.is_restored()


def test_a_signal_while_the_dashboard_starts_leaves_no_altered_terminal(study: Path) -> None:
    for delay_s in (0.05, 0.2, 0.4, 0.6):
        terminal = Pty(study)
        try:
            time.sleep(delay_s)
            terminal.process.send_signal(signal.SIGTERM)
            terminal.ends()
            text = bytes(terminal.output)
            assert text.rfind(b"\x1b[?1049h") <= text.rfind(b"\x1b[?1049l")
            assert termios.tcgetattr(terminal.inner)[:4] == terminal.before[:4]
        finally:
            terminal.close()


def test_a_storm_of_resizes(opened: Pty) -> None:
    source = random.Random(0)
    for _ in range(300):
        opened.resize(source.choice((1, 2, 20, 80, 200, 400)), source.choice((1, 2, 5, 24, 60, 120)))
        opened.process.send_signal(signal.SIGWINCH)
        time.sleep(0.002)
    opened.resize(100, 30)
    opened.process.send_signal(signal.SIGWINCH)
    opened.seen_after(b"?", b"Help")
    opened.process.send_signal(signal.SIGTERM)
    assert opened.ends() == 128 + signal.SIGTERM
    opened.is_restored()


def test_a_terminal_that_takes_no_output_cannot_keep_the_process(study: Path) -> None:
    terminal = Pty(study, reads=False)
    try:
        deadline = time.monotonic() + 60
        while not select.select([terminal.main], [], [], 0.1)[0]:
            assert time.monotonic() < deadline
        time.sleep(1.0)
        for _ in range(50):
            terminal.process.send_signal(signal.SIGWINCH)
            time.sleep(0.01)
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.process.wait(timeout=60) == 128 + signal.SIGTERM
        assert termios.tcgetattr(terminal.inner)[:4] == terminal.before[:4]
    finally:
        terminal.close()


def test_a_terminal_that_vanishes_ends_the_dashboard(opened: Pty) -> None:
    opened._ended.set()
    opened._reader.join()
    os.close(opened.inner)
    os.close(opened.main)
    assert opened.process.wait(timeout=60) is not None


def test_reports_are_removed_from_bytes() -> None:
    whole = b"a\x1b[M\x20\xff\xffb\x1b[<0;1;2M\x1b[Mqqqc\x1b"
    for split in range(len(whole) + 1):
        first, kept = without_old_mouse_reports(whole[:split])
        second, rest = without_old_mouse_reports(kept + whole[split:])
        if whole[:split].endswith(b"\x1b") and split < len(whole):
            # A single ESC at the end of a read counts as a key at once.
            continue
        assert (first + second, rest) == (b"ab\x1b[<0;1;2Mc\x1b", b"")
