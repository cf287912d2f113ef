"""Runs work on many cases in threads: ordered results, progress as cases finish, a clean end on Ctrl-C."""

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
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def checked_threads(threads: int | None, *, name: str = "threads") -> int:
    """Return the number of threads to use; None means all cores.

    Args:
        threads: Value given by the user.
        name: Name of the setting, for the error message.

    Raises:
        ConfigError: `threads` is less than 1.
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

    After Ctrl-C or an exception, running calls are finished and calls that have not started are cancelled.

    Args:
        function: Called once per item, in any thread.
        items: Items to work on.
        threads: Number of calls at once; None means all cores.
        name: Prefix of the thread names.
        done: Called in the calling thread with index and result, each time a call finishes.
        meanwhile: Called in the calling thread after all work is submitted.
        at_end: Called in the calling thread before it waits for running calls, also after an exception.

    Returns:
        The results, in the order of the items.

    Raises:
        ConfigError: `threads` is less than 1.

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
