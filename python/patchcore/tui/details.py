"""The details tab: alerts, states, checkpoints and configuration of the shown run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from patchcore.tui.states import LEVEL_COLOUR
from patchcore.tui.text import count
from patchcore.views.terminal import plain

if TYPE_CHECKING:
    from patchcore.runs import RunView
    from patchcore.tui.watcher import Snapshot

__all__ = ["Details"]

_NEWEST = 50


class Details(VerticalScroll):
    """Alerts, states, checkpoints and the resolved configuration of one run."""

    def compose(self) -> ComposeResult:
        """Create the text."""
        yield Static("No run is selected.", markup=False)

    def show(self, snapshot: Snapshot) -> None:
        """Show the shown run."""
        view = snapshot.run
        text = self.query_one(Static)
        if view is None:
            text.update("No run is selected.")
            return
        lines = [Content.styled(plain(view.run_id), "bold"), Content("")]
        for title, section in (
            ("Alerts", _alerts(view)),
            ("States", _states(view)),
            ("Checkpoints", _checkpoints(view)),
            ("Configuration", _config(view.config)),
        ):
            lines += [Content.styled(title, "bold $text-accent"), *section, Content("")]
        text.update(Content("\n").join(lines))


def _alerts(view: RunView) -> Iterator[Content]:
    for alert in reversed(view.alerts[-_NEWEST:]):
        remedy = f"; {plain(alert.remedy)}" if alert.remedy else ""
        text = f"{_when(alert.t)} {plain(alert.level, 20)}: {plain(alert.message)}{remedy}"
        yield Content.styled(text, LEVEL_COLOUR.get(alert.level, "$text-warning"))
    if not view.alerts:
        yield Content("none")


def _states(view: RunView) -> Iterator[Content]:
    for record in reversed(view.states[-_NEWEST:]):
        step = "" if record.step is None else f" at step {count(record.step)}"
        reason = f": {plain(record.reason)}" if record.reason else ""
        yield Content(f"{_when(record.t)} attempt {record.attempt} {plain(record.state, 40)}{step}{reason}")


def _checkpoints(view: RunView) -> Iterator[Content]:
    newest = {record.which: record for record in view.checkpoints}
    for which, record in newest.items():
        yield Content(f"{_when(record.t)} {plain(which, 20)} at step {count(record.step)}: {plain(record.path)}")
    if not newest:
        yield Content("none")


def _config(config: Mapping[str, Any], prefix: str = "") -> Iterator[Content]:
    for key, value in config.items():
        name = f"{prefix}{plain(key, 80)}"
        if isinstance(value, Mapping):
            yield from _config(value, f"{name}.")
        else:
            yield Content(f"{name} = {plain(value, 200)}")


def _when(seconds: float) -> str:
    """Return a time stamp of the writer's clock as text, in the time zone of this machine."""
    try:
        return time.strftime("%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "–"
