"""Compare the time to the first paint of the dashboard with a bare Textual app with header, table and footer.

Both are started alternately in a pseudo-terminal of 120 × 36. The time is measured from the start of the process until
the texts of header, body and footer have all appeared in the terminal.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import statistics
import struct
import sys
import tempfile
import termios
import time
from pathlib import Path

from benchmarks.rows import Row

ALLOWED_S = 0.15
ROUNDS = 9

BARE = """
from textual.app import App
from textual.widgets import DataTable, Footer, Header

class Bare(App):
    BINDINGS = [("q", "quit", "Quit")]
    def compose(self):
        yield Header()
        yield DataTable()
        yield Footer()

Bare().run()
"""


def first_paint_s(command: list[str], wanted: tuple[bytes, ...]) -> float:
    """Return the seconds from the start until every text in ``wanted`` has appeared in the terminal."""
    began = time.perf_counter()
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", COLUMNS="120", LINES="36")
        os.execv(command[0], command)
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 36, 120, 0, 0))
        output = b""
        while not all(text in output for text in wanted):
            if not select.select([terminal], [], [], 30)[0]:
                raise RuntimeError(f"no first paint within 30 s: {output[-2000:]!r}")
            try:
                part = os.read(terminal, 65_536)
            except OSError:
                part = b""
            if not part:
                raise RuntimeError(f"the app ended before its first paint: {output[-2000:]!r}")
            output += part
        return time.perf_counter() - began
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def run() -> list[Row]:
    """Measure both, alternately, and compare their medians."""
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        (study / "runs").mkdir(parents=True)
        (study / "study.json").write_text(json.dumps({"schema_version": 1, "dataset_root": ""}), encoding="utf-8")
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE, encoding="utf-8")
        ours_command = [sys.executable, "-m", "patchcore", "dashboard", str(study)]
        bare_command = [sys.executable, str(bare)]
        ours, bare_s = [], []
        for _ in range(ROUNDS + 1):
            ours.append(first_paint_s(ours_command, (b"patchcore", b"Runs", b"Quit")))
            bare_s.append(first_paint_s(bare_command, (b"Bare", b"Quit")))
    # The first round is not counted: it reads the files from disk and may compile them.
    ours_s, peer_s = statistics.median(ours[1:]), statistics.median(bare_s[1:])
    peer = "bare Textual app with header, table and footer"
    return [Row("8", "dashboard on a study: first paint", ours_s, peer, peer_s, equal=None, at_most_s=ALLOWED_S)]
