"""Progress of work on so many cases: a bar with an ETA on a terminal, a line for each tenth elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["counted"]


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield what is called with (done, of how many), and shows it on stderr.

    Args:
        what: As in "Checking".
    """
    from rich.console import Console

    console = Console(stderr=True, markup=False, highlight=False)
    if not console.is_terminal:

        def tell(done: int, total: int) -> None:
            if done == total or done * 10 // total > (done - 1) * 10 // total:
                console.print(f"{what}: {done} of {total}", soft_wrap=True)

        yield tell
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(what, total=None)

        def show(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield show
