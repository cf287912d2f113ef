"""Live view of a run for ``train`` and ``runs tail``. Closing the view does not affect the run."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Final, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from patchcore.errors import PatchcoreError, RunError
from patchcore.runs import RunReader, RunState, RunView, ValidationRecord, request, terminate_orphan
from patchcore.runs.events import TRAIN_LOSS, TRAIN_WINDOW_DSC, VAL_LESION_PRECISION, VAL_LESION_RECALL
from patchcore.runs.process import tell
from patchcore.types import ExitCode
from patchcore.views.terminal import plain

__all__ = ["Background", "PlainLines", "duration", "watch"]

_POLL_S: Final = 0.25
_PLAIN_S: Final = 10.0
_OUTPUT_LOST: Final = (OSError, SystemExit)  # rich raises SystemExit when nobody reads the output any more
_STYLES: Final = {
    RunState.FINISHED: "green",
    RunState.RUNNING: "cyan",
    RunState.STOPPED: "yellow",
    RunState.PAUSED: "yellow",
    RunState.FAILED: "red",
    RunState.KILLED: "red",
    RunState.CRASHED: "red",
    RunState.OUT_OF_MEMORY: "red",
    RunState.PRESUMED_CRASHED: "red",
}


def watch(run: Path, *, console: Console, follow: bool = True, stop_on_interrupt: bool = True) -> int:
    """Show a run until its attempt has ended.

    Args:
        run: The run folder.
        console: A terminal shows a live display, any other output gets plain lines.
        follow: If False, show the run once and return.
        stop_on_interrupt: If True, the first Ctrl-C or SIGTERM asks the run to stop, the second terminates it, and
            the third closes the view. If False, the first closes the view, and the run continues.

    Returns:
        The exit code of the run: 0 finished, 75 stopped or paused, 1 failed; 130 if the view was closed before
        the end of the run.

    Raises:
        RunError: `run` is not a run folder.
    """
    reader = RunReader(run)
    screen: _Screen = _LiveScreen(console) if console.is_terminal else PlainLines(run, console)
    if stop_on_interrupt:
        screen = _Lasting(screen)
    interrupts: list[int] = []
    with _noting(interrupts), screen.open():
        handled = 0
        while True:
            view = reader.poll()
            screen.show(view)
            if view.behind:
                continue
            if view.state.state.is_over or not follow:
                break
            if len(interrupts) > handled:
                handled += 1
                if handled > 2 or not stop_on_interrupt:
                    return ExitCode.INTERRUPTED
                screen.note(_ask_to_end(run, view, force=handled == 2))
                continue
            time.sleep(_POLL_S)
    return ExitCode.DONE if not follow and view.state.state.is_live else view.state.run_exit_code


def _ask_to_end(run: Path, view: RunView, *, force: bool) -> str:
    try:
        if force and view.state.state is RunState.ORPHANED:
            return "terminated" if terminate_orphan(run) else "the trainer could not be terminated from here"
        request(run, "stop", {"force": True} if force else None)
    except (RunError, OSError) as error:
        return str(error)
    if force:
        return "terminating"
    return "stopping at the next step, with a checkpoint; press Ctrl-C again to terminate"


@contextmanager
def _noting(interrupts: list[int]) -> Iterator[None]:
    """Record SIGINT and SIGTERM instead of ending the process."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, lambda received, _: interrupts.append(received)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


class _Screen(Protocol):
    def open(self) -> Any: ...

    def show(self, view: RunView) -> None: ...

    def note(self, text: str) -> None: ...


class _Lasting:
    """Shows a run as long as the output takes it: a closed pipe or a full disk ends neither the run nor the view."""

    def __init__(self, screen: _Screen) -> None:
        self._screen = screen
        self._lost = False

    @contextmanager
    def open(self) -> Iterator[None]:
        stack = ExitStack()
        self._try(lambda: stack.enter_context(self._screen.open()))
        try:
            yield
        finally:
            with suppress(*_OUTPUT_LOST):
                stack.close()

    def show(self, view: RunView) -> None:
        self._try(lambda: self._screen.show(view))

    def note(self, text: str) -> None:
        self._try(lambda: self._screen.note(text))

    def _try(self, action: Callable[[], object]) -> None:
        if not self._lost:
            try:
                action()
            except _OUTPUT_LOST:
                self._lost = True


class Background:
    """Calls `tick` on a thread of its own, so that a pipe that nobody reads does not hold up the caller.

    Args:
        tick: Prints the news; an error ends the output.
    """

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._wake = threading.Condition()
        self._asked = self._closing = False
        self._thread = threading.Thread(target=self._run, name="patchcore-output", daemon=True)
        self._thread.start()

    def tick(self) -> None:
        """Ask for output and return at once."""
        with self._wake:
            self._asked = True
            self._wake.notify()

    def close(self, timeout_s: float = 5.0) -> bool:
        """Print the rest and end the thread. Return whether it has ended."""
        with self._wake:
            self._asked = self._closing = True
            self._wake.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._asked)
                self._asked, last = False, self._closing
            try:
                self._tick()
            except _OUTPUT_LOST:
                return
            except PatchcoreError as error:
                tell(f"progress output stopped: {error}")
                return
            if last:
                return


class PlainLines:
    """Prints a run as lines of text: one per change of state, validation and alert, and progress every ten seconds.

    Args:
        run: The run folder.
        console: Console to print on.
        clock: Returns monotonic time, s.
    """

    def __init__(self, run: Path, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._console = console
        self._clock = clock
        self._reader: RunReader | None = None
        self._state: str | None = None
        self._validations: set[tuple[int, str]] = set()
        self._alerts = 0
        self._next_progress = 0.0

    def open(self) -> Any:
        """Return an empty context: plain lines need no set-up."""
        return nullcontext()

    def tick(self) -> None:
        """Read the run and print the news. ``supervise_foreground`` calls it repeatedly."""
        self._reader = self._reader or RunReader(self._run)
        self.show(self._reader.poll())

    def show(self, view: RunView) -> None:
        """Print everything in `view` that was not printed before."""
        for validation in view.validations:
            if (validation.attempt, validation.validation_id) not in self._validations:
                self._validations.add((validation.attempt, validation.validation_id))
                self._say(
                    f"validation at step {validation.step}: mean DSC {validation.dsc_mean:.4f} "
                    f"(n = {validation.n_cases}), global {validation.dsc_global:.4f}{_lesion_words(validation)}"
                )
        for alert in view.alerts[self._alerts :]:
            self._say(f"{alert.level}: {alert.message}" + (f"; {alert.remedy}" if alert.remedy else ""))
        self._alerts = len(view.alerts)
        changed = view.state.label != self._state
        if changed or (view.step and self._clock() >= self._next_progress):
            self._state = view.state.label
            self._next_progress = self._clock() + _PLAIN_S
            self._say(", ".join([view.state.label, *_progress_words(view)]) if view.step else view.state.label)

    def note(self, text: str) -> None:
        """Print a note."""
        self._say(text)

    def _say(self, text: str) -> None:
        self._console.print(Text(plain(text)), soft_wrap=True)


class _LiveScreen:
    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._note: str | None = None
        self._view: RunView | None = None

    def open(self) -> Any:
        return self._live

    def show(self, view: RunView) -> None:
        self._view = view
        self._live.update(_panel(view, self._note), refresh=True)

    def note(self, text: str) -> None:
        self._note = text
        if self._view is not None:
            self.show(self._view)


def _panel(view: RunView, note: str | None) -> Group:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim")
    rows.add_column()
    style = _STYLES.get(view.state.state, "")
    rows.add_row("run", Text(plain(view.run_id)))
    rows.add_row("state", Text(plain(view.state.label), style=style))
    if view.phase:
        rows.add_row("phase", Text(plain(view.phase)))
    of = f" of {view.total_steps}" if view.total_steps else ""
    rows.add_row("step", Text(f"{view.step}{of}"))
    if view.total_steps:
        rows.add_row("", ProgressBar(total=view.total_steps, completed=view.step, width=40))
    if view.eta_s is not None and view.state.state.is_live:
        rows.add_row("time left", Text(duration(view.eta_s)))
    for name, value in (("loss", view.last(TRAIN_LOSS)), ("window DSC", view.last(TRAIN_WINDOW_DSC))):
        if value is not None:
            rows.add_row(name, Text(f"{value:.4f}"))
    newest, best = view.last_validation, view.best_validation
    if newest is not None:
        words = f"{newest.dsc_mean:.4f} at step {newest.step} (n = {newest.n_cases}){_lesion_words(newest)}"
        rows.add_row("validation DSC", Text(words))
    if best is not None:
        rows.add_row("best", Text(f"{best.dsc_mean:.4f} at step {best.step}", style="green"))
    for alert in view.alerts[-3:]:
        remedy = f"; {alert.remedy}" if alert.remedy else ""
        rows.add_row(Text(plain(alert.level), style="yellow"), Text(plain(alert.message + remedy)))
    hint = note if note is not None else ""
    return Group(rows, Text(plain(hint), style="yellow")) if hint else Group(rows)


def _lesion_words(validation: ValidationRecord) -> str:
    """Return lesion recall and precision of a validation as text; empty if the run did not record them."""
    recall, precision = (validation.values.get(name) for name in (VAL_LESION_RECALL, VAL_LESION_PRECISION))
    known = [(name, value) for name, value in (("recall", recall), ("precision", precision)) if value is not None]
    return "".join(f", lesion {name} {value:.2f}" for name, value in known if not math.isnan(value))


def _progress_words(view: RunView) -> list[str]:
    words = [f"step {view.step}" + (f"/{view.total_steps}" if view.total_steps else "")]
    if view.epoch is not None:
        words.append(f"epoch {view.epoch}")
    if view.phase and view.state.state.is_live:
        words.append(view.phase)
    for name, value in (("loss", view.last(TRAIN_LOSS)), ("window DSC", view.last(TRAIN_WINDOW_DSC))):
        if value is not None:
            words.append(f"{name} {value:.4f}")
    if view.eta_s is not None and view.state.state.is_live:
        words.append(f"{duration(view.eta_s)} left")
    return words


def duration(seconds: float) -> str:
    """Return a duration as readable text.

    Example:
        >>> duration(4000)
        '1 h 07 min'
    """
    if seconds < 60:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
