"""The right side of the dashboard: a header for the shown run, and tabs.

The pane of a tab is loaded when the tab is opened for the first time.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeAlias

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static, TabbedContent, TabPane

from patchcore.tui.run_header import RunHeader
from patchcore.tui.watcher import Snapshot
from patchcore.views.terminal import plain

__all__ = ["TABS", "Panes"]

# Tab → module and class of its pane. A pane is a widget with ``show(snapshot)``.
_PANES = {
    "curves": ("curves", "Curves"),
    "scores": ("case_scores", "CaseScores"),
    "plan": ("plan_pane", "PlanPane"),
    "cases": ("cases_pane", "CasesPane"),
    "details": ("details", "Details"),
}
TABS = tuple(_PANES)

Pane: TypeAlias = Any
_STUDY_TABS = ("plan", "cases")
_NO_RUNS = "No runs yet. Press n to start one, or run\n\n    patchcore train STUDY"
_NO_PLAN = "No runs yet. Make a plan first:\n\n    patchcore analyze DATASET STUDY\n    patchcore plan STUDY"


class Panes(Vertical):
    """Header and tabs. Only the visible tab is updated."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._snapshot = Snapshot()
        self._panes: dict[str, Pane] = {}

    def compose(self) -> ComposeResult:
        """Create the header and the tabs."""
        yield RunHeader(id="run")
        with TabbedContent(id="tabs"):
            for number, tab in enumerate(TABS, 1):
                with TabPane(f"{number} {tab.title()}", id=tab):
                    yield Static(id=f"{tab}-unreadable", classes="unreadable", markup=False)
                    if tab == "curves":
                        yield Static("Reading the study …", id="empty", markup=False)

    def show(self, snapshot: Snapshot) -> None:
        """Show this snapshot from now on."""
        self._snapshot = snapshot
        self._update()

    def open_tab(self, tab: str) -> None:
        """Switch to a tab."""
        self.query_one(TabbedContent).active = tab

    def scroll(self, direction: str) -> None:
        """Scroll the visible pane ``up`` or ``down``."""
        pane = self._panes.get(self.query_one(TabbedContent).active)
        if pane is not None:
            (pane.scroll_down if direction == "down" else pane.scroll_up)()

    def on_tabbed_content_tab_activated(self) -> None:
        """Update the pane that became visible."""
        self._update()

    def _update(self) -> None:
        snapshot = self._snapshot
        shown = self.query_one(TabbedContent).active
        header = self.query_one(RunHeader)
        header.display = snapshot.run is not None and shown not in _STUDY_TABS
        header.show(snapshot.run)
        empty = self.query_one("#empty", Static)
        empty.display = snapshot.run is None
        if snapshot.run is None and snapshot.study is not None:
            empty.update(_NO_RUNS if snapshot.study.plan is not None else _NO_PLAN)
        pane = self._panes.get(shown)
        if pane is None:
            if shown == "curves" and snapshot.run is None:
                return
            tab = self.query_one(f"#{shown}", TabPane)
            if not tab.is_attached:  # a key was pressed before the tab was there, or while the dashboard closes
                self.call_after_refresh(self._update)
                return
            module, name = _PANES[shown]
            pane = self._panes[shown] = getattr(import_module(f"patchcore.tui.{module}"), name)()
            tab.mount(pane)
        pane.display = shown != "curves" or snapshot.run is not None
        if pane.is_mounted:
            self._try_to_show(pane, shown)
        else:
            self.call_after_refresh(self._update)

    def _try_to_show(self, pane: Pane, tab: str) -> None:
        """Update a pane. A record that it cannot show, because another program wrote it, is named instead."""
        notice = self.query_one(f"#{tab}-unreadable", Static)
        try:
            pane.show(self._snapshot)
        except Exception as error:
            notice.update(plain(f"The record of this run is unreadable ({type(error).__name__}: {error}).", 500))
            notice.display, pane.display = True, False
        else:
            notice.display = False
