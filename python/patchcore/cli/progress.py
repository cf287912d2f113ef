"""Progress display for all commands: bars with remaining time on a terminal, otherwise one line per 10 %."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

__all__ = ["Show", "counted", "progress_bars", "stderr_console"]

Show: TypeAlias = Callable[[str, int, int | None], None]
"""Called with the name of a phase, the number of finished items, and the total if it is known."""


def stderr_console() -> Console:
    """Return the console for progress and notes. It prints text from files as it is, without markup."""
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False)


@contextmanager
def progress_bars(console: Console) -> Iterator[Show]:
    """Yield the function that shows progress: one bar per phase, or one line per 10 % of a phase."""
    if not console.is_terminal:
        yield _lines(console)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(phase: str, done: int, total: int | None) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, total=total)

        yield show


@contextmanager
def counted(phase: str) -> Iterator[Callable[[int, int], None]]:
    """Yield the function that shows the progress of one phase. Call it with the finished items and the total."""
    with progress_bars(stderr_console()) as show:
        yield lambda done, total: show(phase, done, total)


def _lines(console: Console) -> Show:
    tenths: dict[str, int] = {}

    def show(phase: str, done: int, total: int | None) -> None:
        known = total or done
        tenth = done * 10 // max(known, 1)
        if tenth != tenths.get(phase, 0):
            tenths[phase] = tenth
            console.print(f"{phase}: {done} of {known}", soft_wrap=True)

    return show
