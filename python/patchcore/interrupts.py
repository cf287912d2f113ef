"""Controls when Ctrl-C and other signals that ask for an end take effect, so that no critical work is cut short."""

from __future__ import annotations

import atexit
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

__all__ = ["STOP_SIGNALS", "StopSignal", "heeded_signals", "interrupts_wait", "second_interrupt_kills"]

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that ask a run to stop: from a cluster or system manager, from Ctrl-C, and from the end of the terminal."""


def heeded_signals() -> list[signal.Signals]:
    """Return the signals of :data:`STOP_SIGNALS` that this process acts on.

    Whoever started it may have chosen that it survives the end of the terminal: ``nohup`` ignores SIGHUP.
    """
    return [n for n in STOP_SIGNALS if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]


class StopSignal:
    """Records the first SIGTERM, SIGINT or SIGHUP, and ignores all later ones.

    At a time limit, a cluster sends SIGTERM to every process of a job, and the supervisor forwards its own: the trainer
    receives several within milliseconds. A trainer that does not stop is ended by the supervisor with SIGKILL.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._passed_on = False
        for number in heeded_signals():
            signal.signal(number, self._handle)
        # At its end, Python restores the default: a late signal would replace the exit code of a run that has ended.
        atexit.register(self._ignore)

    def pass_on(self) -> None:
        """Send a recorded signal once more, to the handler that has replaced this one in the meantime."""
        if self.received and not self._passed_on:
            self._passed_on = True
            signal.raise_signal(signal.Signals[self.received])

    def _ignore(self) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Delay a Ctrl-C that arrives within the block until the end of the block.

    Use it around imports. If Ctrl-C interrupts an import, Python may lose the interrupt, or it may keep the import
    lock. Then every thread that imports the module later waits forever.

    Example:
        >>> with interrupts_wait():
        ...     import json
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if heard:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def second_interrupt_kills() -> Iterator[None]:
    """Make the first Ctrl-C within the block stop the work cleanly, and the second one end the process at once.

    If the clean stop hangs, the user can still end the process without SIGKILL.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
