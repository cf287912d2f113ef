"""Runs many items in child processes, in batches: a child that dies costs one item, and the next child goes on."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence


def limit_processor_time(seconds: int) -> None:
    """End this process if it uses more than `seconds` of processor time from now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def batches(
    command: Callable[[int, int], Sequence[str]], start: int, count: int, *, batch: int, timeout_s: float
) -> Iterator[tuple[str, int, str, str]]:
    """Run the items `start` to `count`, `batch` of them in one child process.

    Args:
        command: Arguments of Python that run the items from the first to before the second number. The child prints
            ``at N`` before an item, and ``end OUTCOME`` or ``bad REASON`` after it.
        start: First item.
        count: One past the last item.
        batch: Items per child.
        timeout_s: Seconds that a child may take.

    Yields:
        ``end`` or ``bad``, the item, the rest of the line and stderr; ``died``, the item, the exit code and stderr; and
        ``done``, the next item, for each child.
    """
    while start < count:
        stop = min(start + batch, count)
        done = subprocess.run(
            [sys.executable, *command(start, stop)],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            check=False,
        )
        last = start
        for line in done.stdout.splitlines():
            word, _, rest = line.partition(" ")
            if word == "at":
                last = int(rest)
            elif word in ("end", "bad"):
                yield word, last, rest, done.stderr
        if done.returncode:
            yield "died", last, str(done.returncode), done.stderr
            stop = last + 1
        start = stop
        yield "done", start, "", ""
