"""Work on many cases in threads: results in order, progress as they finish, a clean end on Ctrl-C."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from patchcore.errors import ConfigError

__all__ = ["checked_threads", "core_count", "for_each"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def core_count() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def checked_threads(threads: int | None, *, name: str = "threads") -> int:
    """Return the number of threads to use: all cores if None.

    Args:
        threads: As the user gave it.
        name: How the setting is called, for the error.

    Raises:
        ConfigError: Less than one thread.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"{name} is {threads}", found=threads, expected="1 or more", remedy="use 1 or more")
    return threads or core_count()


def for_each(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    *,
    threads: int | None = None,
    name: str = "work",
    done: Callable[[int, _Result], None] | None = None,
    meanwhile: Callable[[], None] | None = None,
    at_end: Callable[[], None] | None = None,
) -> list[_Result]:
    """Call a function on each item in threads.

    After Ctrl-C, or after an exception, calls that run are waited for and calls that have not begun are dropped.

    Args:
        function: Called once per item, in any thread.
        items: What to work on.
        threads: Calls at once; all cores if None.
        name: Prefix of the threads' names.
        done: Called in the calling thread with index and result as each call finishes.
        meanwhile: Called in the calling thread once all work is handed out.
        at_end: Called in the calling thread before calls that still run are waited for, also after an exception.

    Returns:
        The results, in the order of the items.

    Raises:
        ConfigError: Less than one thread.

    Example:
        >>> for_each(lambda n: n * n, [1, 2, 3], threads=2)
        [1, 4, 9]
    """
    executor = ThreadPoolExecutor(checked_threads(threads), thread_name_prefix=name)
    results: dict[int, _Result] = {}
    try:
        places = {executor.submit(function, item): index for index, item in enumerate(items)}
        if meanwhile is not None:
            meanwhile()
        for future in as_completed(places):
            index = places[future]
            results[index] = future.result()
            if done is not None:
                done(index, results[index])
    finally:
        if at_end is not None:
            at_end()
        executor.shutdown(wait=True, cancel_futures=True)
    return [results[index] for index in range(len(items))]
