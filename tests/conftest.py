"""Pytest configuration for all tests."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings

# A slow or busy machine is not a fault: no limit on the time of an example.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# A test that hangs ends after 5 minutes; PATCHCORE_TEST_SCALE=4 makes it 20, for a slow or busy machine.
_HANG_S = 300
os.environ.setdefault("PYTEST_TIMEOUT", str(_HANG_S * float(os.environ.get("PATCHCORE_TEST_SCALE", "1"))))

# Variables of the caller that change what the commands print or how they end.
_UNSET = ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "COLUMNS", "LINES", "PATCHCORE_STOP_GRACE_S")


# Tests write thousands of small files and wait for the disk each time. In memory they do not wait. TMPDIR chooses
# another place.
_MEMORY, _ROOM_BYTES = Path("/dev/shm"), 8 * 2**30
if "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _ROOM_BYTES:
    os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)


def pytest_configure() -> None:
    """Make the tests independent of the caller's environment.

    The handling of Ctrl-C is restored, because background processes (nohup, or ``&`` in a script) ignore it.
    """
    for name in _UNSET:
        os.environ.pop(name, None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
