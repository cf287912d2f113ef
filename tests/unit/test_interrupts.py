"""Tests that Ctrl-C waits for critical work, and that a second Ctrl-C always ends the process."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from patchcore.interrupts import heeded_signals, interrupts_wait, second_interrupt_kills


def test_an_interrupt_takes_effect_at_the_end() -> None:
    done = []

    def work() -> None:
        with interrupts_wait():
            signal.raise_signal(signal.SIGINT)
            done.append("whole")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["whole"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_are_left_alone() -> None:
    def work() -> None:
        with interrupts_wait(), second_interrupt_kills():
            seen.append(signal.getsignal(signal.SIGINT))

    seen: list[object] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_the_second_interrupt_ends_what_hangs() -> None:
    # The first signal can arrive at any moment after "ready" is printed, so the print is inside the try block.
    code = (
        "import time\n"
        "from patchcore.interrupts import second_interrupt_kills\n"
        "with second_interrupt_kills():\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n"
        "        print('heard', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, encoding="utf-8")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "heard\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == -signal.SIGINT
    process.stdout.close()


def test_a_process_that_outlives_its_terminal_does_not_heed_its_end() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        assert signal.SIGHUP in heeded_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        assert signal.SIGHUP not in heeded_signals()
        assert signal.SIGTERM in heeded_signals()
    finally:
        signal.signal(signal.SIGHUP, before)


HEARD_BEFORE = """
import signal
from patchcore.interrupts import StopSignal
stop = StopSignal()
signal.raise_signal(signal.SIGTERM)
heard = []
signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
stop.pass_on()
stop.pass_on()
print(stop.received, [int(number) for number in heard])
"""


def test_a_signal_heard_too_early_is_passed_on_once() -> None:
    done = subprocess.run([sys.executable, "-c", HEARD_BEFORE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "SIGTERM [15]"
