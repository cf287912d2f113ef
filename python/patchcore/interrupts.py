"""Controls when Ctrl-C takes effect, so that it does not interrupt critical work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["interrupts_wait", "second_interrupt_kills"]


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
