"""Pytest configuration for all tests."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Restore the handling of Ctrl-C, which background processes (nohup, or ``&`` in a script) ignore."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
