"""Ctrl-C that waits for what must not be cut short."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["interrupts_wait", "second_interrupt_kills"]


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let a Ctrl-C within the block take effect at its end.

    Around imports: interrupted within one, Python drops the interrupt where it happens to hold an import lock, or
    leaves the lock held, and every thread that imports the module later waits for ever.

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
    """Let the first Ctrl-C within the block stop the work cleanly, and the second end the process at once.

    Whatever hangs on the way to a clean stop, a user is never left with a process that only SIGKILL ends.
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
