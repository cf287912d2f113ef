"""The help screen: every key, and what the words and signs mean."""

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
    ("s", "stop the shown run: it ends at the next step with a checkpoint"),
    ("p", "pause it: the same, meant to be resumed"),
    ("r", "resume it from its last checkpoint"),
    ("Moving", ""),
    ("↑ ↓  j k", "move in a list, scroll a pane"),
    ("tab  shift+tab", "go to the next or previous pane"),
    ("1 … 5", "Curves, Scores, Plan, Cases, Details"),
    ("← →", "next tab, while the tabs have the focus"),
    ("Dashboard", ""),
    (":  ctrl+p", "palette: every command, themes"),
    ("?", "this help"),
    ("q  ctrl+q", "quit; runs go on"),
)

_NOTES = """\
Quitting or killing the dashboard never touches a run, and a new one shows its whole history.

validation  DSC of whole volumes by sliding window, per case; the mean leaves out cases without lesion.
windows     DSC of the training windows: quick to rise and no measure of success by itself.
orphaned    the trainer lives but its supervisor is gone; it still trains.
stalled     the process lives but the step does not move.
stale       no sign of life for three beats; beyond that the run is presumed crashed."""


class Help(ModalScreen[None]):
    """Keys and words; escape closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,q,question_mark", "dismiss", "Close"),
        ("j", "scroll('down')", "Down"),
        ("k", "scroll('up')", "Up"),
    ]

    def compose(self) -> ComposeResult:
        """Lay the text out."""
        lines = []
        for keys, meaning in _KEYS:
            if meaning:
                lines.append(Content.assemble((f"  {keys:<16}", "$text-accent"), Content(meaning)))
            else:
                lines.append(Content.styled(keys, "bold"))
        with VerticalScroll(classes="dialog wide"):
            yield Static("Help", classes="dialog-title", markup=False)
            yield Static(Content("\n").join(lines), markup=False)
            yield Static(f"\n{_NOTES}\n\nescape closes this", markup=False)

    def action_scroll(self, direction: str) -> None:
        """Scroll the text."""
        box = self.query_one(VerticalScroll)
        if direction == "down":
            box.scroll_down()
        else:
            box.scroll_up()
