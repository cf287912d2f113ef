"""What all tests stand on."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Hear Ctrl-C: what is started in the background (nohup, or a script's &) ignores it, and so do its children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
