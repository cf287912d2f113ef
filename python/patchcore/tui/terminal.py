"""Keeps the dashboard alive whatever its terminal sends, and restores the terminal when a signal ends it."""

from __future__ import annotations

import os
import re
import selectors
import signal
import sys
import termios
import threading
from codecs import getincrementaldecoder
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver

if TYPE_CHECKING:
    from patchcore.tui.app import DashboardApp

__all__ = ["TerminalDriver", "ended_by_signals", "without_old_mouse_reports"]

_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
# A terminal that does not take output can block the normal end; then the process ends without it.
_LONGEST_END_S: Final = 3.0
# Mouse tracking, focus reports and bracketed paste off; the cursor and the normal screen back.
_OFF: Final = ("?1000l", "?1002l", "?1003l", "?1006l", "?1015l", "?1004l", "?2004l", "<u", "?1049l", "?25h")
_RESTORE: Final = "".join(f"\x1b[{code}" for code in _OFF).encode()
_OLD_MOUSE: Final = re.compile(rb"\x1b\[M[\s\S]{3}")
_OLD_MOUSE_START: Final = re.compile(rb"\x1b(?:\[(?:M[\s\S]{0,2})?)?$")


def without_old_mouse_reports(data: bytes) -> tuple[bytes, bytes]:
    r"""Remove mouse reports in the old X10 form (``ESC [ M`` and three bytes), which tmux sends after a reattach.

    They are not UTF-8, and their bytes would count as keys.

    Returns:
        The other bytes, and an unfinished report at the end, to be put before the next bytes.

    Example:
        >>> without_old_mouse_reports(b"a\x1b[M \xff\x80b\x1b[M ")
        (b'ab', b'\x1b[M ')
    """
    data = _OLD_MOUSE.sub(b"", data)
    match = _OLD_MOUSE_START.search(data)
    if match is None or match[0] == b"\x1b":
        # A single ESC is a key.
        return data, b""
    return data[: match.start()], match[0]


class TerminalDriver(LinuxDriver):
    """Reads any bytes: what is not UTF-8 is replaced, and what Textual cannot parse is dropped."""

    def run_input_thread(self) -> None:
        """Wait for input and dispatch events; a terminal that is gone ends the dashboard."""
        parser = XTermParser(self._debug)
        decode = getincrementaldecoder("utf-8")("replace").decode
        kept = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while not self.exit_event.is_set():
                if selector.select(0.1):
                    try:
                        data = os.read(self.fileno, 1 << 12)
                    except OSError:
                        data = b""
                    if not data:
                        self._app.call_later(self._app.exit)
                        return
                    data, kept = without_old_mouse_reports(kept + data)
                    text = decode(data)
                    try:
                        # To the parser, an empty text is the end of the input.
                        for event in parser.feed(text) if text else ():
                            self.process_message(event)
                    except Exception:
                        # Bytes that are no sequence of any terminal: begin again with the next ones.
                        parser = XTermParser(self._debug)
                try:
                    for event in parser.tick():
                        self.process_message(event)
                except Exception:
                    parser = XTermParser(self._debug)


@contextmanager
def ended_by_signals(app: DashboardApp) -> Iterator[None]:
    """Let SIGTERM and SIGHUP quit the app for the block, so that the terminal is restored.

    If the app does not end within a few seconds, because its terminal takes no output, the terminal is restored without
    it and the process ends.
    """
    before = _attributes()

    def end(number: int, _: FrameType | None) -> None:
        threading.Thread(target=_end_anyway, args=(number, before), daemon=True).start()
        loop = app.event_loop
        if loop is None:
            raise SystemExit(128 + number)
        # This wakes the loop, even while it waits for its terminal.
        loop.call_soon_threadsafe(partial(app.exit, return_code=128 + number))

    kept = {number: signal.signal(number, end) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _attributes() -> list[Any] | None:
    try:
        return termios.tcgetattr(sys.__stdin__.fileno()) if sys.__stdin__ is not None else None
    except (OSError, ValueError, termios.error):
        return None


def _end_anyway(number: int, attributes: list[Any] | None) -> None:
    threading.Event().wait(_LONGEST_END_S)
    with suppress(Exception):
        if attributes is not None and sys.__stdin__ is not None:
            termios.tcsetattr(sys.__stdin__.fileno(), termios.TCSANOW, attributes)
    with suppress(Exception):
        if sys.__stderr__ is not None:
            handle = sys.__stderr__.fileno()
            os.set_blocking(handle, False)
            os.write(handle, _RESTORE)
    os._exit(128 + number)
