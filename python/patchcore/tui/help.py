"""The help screen: all keys, and the meaning of the terms in the dashboard."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

__all__ = ["Help"]

_KEYS = (
    ("Runs", ""),
    ("n", "start a new run"),
    ("s", "stop the shown run; it writes a checkpoint first"),
    ("p", "pause the shown run: like stop, to be resumed later"),
    ("r", "resume the shown run from its last checkpoint"),
    ("Navigation", ""),
    ("↑ ↓  j k", "move in a list, or scroll a pane"),
    ("tab  shift+tab", "go to the next or previous pane"),
    ("1 … 5", "show Curves, Scores, Plan, Cases or Details"),
    ("← →", "previous or next tab, if the tab bar has the focus"),
    ("Dashboard", ""),
    (":  ctrl+p", "command palette: all commands and themes"),
    ("?", "show this help"),
    ("q  ctrl+q", "quit the dashboard; runs continue"),
)

_NOTES = """\
Quitting or killing the dashboard does not affect any run. When you open the dashboard again, it shows \
the whole history of each run.

validation  DSC per case on whole volumes, by sliding window. The mean excludes cases \
without lesion and prediction.
windows     DSC on the training windows. It rises quickly and alone does not measure success.
orphaned    The supervisor process is gone, but the trainer is alive and still trains.
stalled     The trainer is alive, but the step does not advance.
stale       No sign of life for three heartbeats. After a longer silence, the run is presumed crashed."""


class Help(ModalScreen[None]):
    """Keys and terms. Escape closes the screen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,q,question_mark", "dismiss", "Close"),
        ("j", "scroll('down')", "Down"),
        ("k", "scroll('up')", "Up"),
    ]

    def compose(self) -> ComposeResult:
        """Create the text."""
        lines = []
        for keys, meaning in _KEYS:
            if meaning:
                lines.append(Content.assemble((f"  {keys:<16}", "$text-accent"), Content(meaning)))
            else:
                lines.append(Content.styled(keys, "bold"))
        with VerticalScroll(classes="dialog wide"):
            yield Static("Help", classes="dialog-title", markup=False)
            yield Static(Content("\n").join(lines), markup=False)
            yield Static(f"\n{_NOTES}\n\nPress escape to close this help.", markup=False)

    def action_scroll(self, direction: str) -> None:
        """Scroll the text."""
        box = self.query_one(VerticalScroll)
        if direction == "down":
            box.scroll_down()
        else:
            box.scroll_up()
