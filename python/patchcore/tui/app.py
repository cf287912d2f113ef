"""The dashboard app: arranges the panes, passes snapshots to them, and turns key presses into requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.actions import ActionParseResult
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.css.query import NoMatches
from textual.dom import DOMNode
from textual.driver import Driver
from textual.message import Message
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Header, OptionList, Static

from patchcore.tui.panes import TABS, Panes
from patchcore.tui.run_list import RunList
from patchcore.tui.watcher import Snapshot, Watcher
from patchcore.views.terminal import plain

__all__ = ["DashboardApp"]


class DashboardApp(App[None]):
    """The dashboard: watch and control the runs of one study.

    Args:
        study: The study folder.
        driver_class: Reads the terminal; None: Textual's own choice.
    """

    TITLE = "patchcore"
    CSS_PATH = "dashboard.tcss"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-broad")]  # noqa: RUF012 (as in App)
    VERTICAL_BREAKPOINTS = [(0, "-low"), (35, "-high")]  # noqa: RUF012 (as in App)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new_run", "New run"),
        Binding("s", "stop_run", "Stop"),
        Binding("p", "pause_run", "Pause"),
        Binding("r", "resume_run", "Resume"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
        Binding("colon", "command_palette", "Palette", key_display=":"),
        Binding("j", "move('down')", "Down", show=False),
        Binding("k", "move('up')", "Up", show=False),
        *(Binding(str(n), f"tab('{tab}')", tab.title(), show=False) for n, tab in enumerate(TABS, 1)),
    ]

    class Reported(Message):
        """The watcher has a new snapshot. Snapshots are cumulative: a newer one replaces one that still waits.

        Args:
            snapshot: The data to show.
        """

        def __init__(self, snapshot: Snapshot) -> None:
            super().__init__()
            self.snapshot = snapshot

        def can_replace(self, message: Message) -> bool:
            """Return whether this message makes `message` unnecessary."""
            return isinstance(message, DashboardApp.Reported)

    def __init__(self, study: Path, *, driver_class: type[Driver] | None = None) -> None:
        super().__init__(driver_class=driver_class)
        self.sub_title = plain(study.resolve().name or study, 60)
        self._study = study
        self.event_loop: asyncio.AbstractEventLoop | None = None
        self._watcher = Watcher(study, lambda snapshot: self.post_message(self.Reported(snapshot)))
        self._snapshot = Snapshot()
        self._tab = TABS[0]

    def compose(self) -> ComposeResult:
        """Create the widgets that are drawn first. The right side is added right after the first drawing."""
        yield Header(icon="")
        with Horizontal(id="body"):
            yield RunList(id="runs")
        yield Static("", id="problem", markup=False)
        yield Footer()

    def on_load(self) -> None:
        """Remember the event loop, so that a signal can end the app through it."""
        self.event_loop = asyncio.get_running_loop()

    def on_mount(self) -> None:
        """Draw first, then start reading the study."""
        self.query_one("#runs").focus()
        self.call_after_refresh(self._fill_when_painted)

    def _fill_when_painted(self) -> None:
        """Wait until the footer is drawn. It fills itself last, and work that starts earlier would delay it."""
        if self.query_one(Footer).children:
            self.call_after_refresh(self._fill)
        else:
            self.set_timer(0.01, self._fill_when_painted)

    async def _fill(self) -> None:
        panes = Panes(id="right")
        try:
            await self.query_one("#body").mount(panes)
            panes.open_tab(self._tab)
        except NoMatches:
            # The dashboard was closed while it was being drawn.
            return
        self._watch()

    @work(thread=True, group="watcher", exit_on_error=False)
    def _watch(self) -> None:
        self._watcher.watch()

    def on_unmount(self) -> None:
        """Stop the watcher thread. Otherwise it would keep the process alive."""
        self._watcher.stop()

    async def action_quit(self) -> None:
        """Quit the dashboard. Runs continue."""
        self._watcher.stop()
        self.exit()

    def on_dashboard_app_reported(self, event: Reported) -> None:
        """Show a snapshot."""
        self._snapshot = snapshot = event.snapshot
        try:
            screen = self.screen_stack[0]
            problem, runs, panes = (
                screen.query_one("#problem", Static),
                screen.query_one(RunList),
                screen.query_one(Panes),
            )
        except (IndexError, NoMatches):
            # The dashboard is being closed: its widgets are removed before its last messages arrive.
            return
        problem.display = snapshot.problem is not None
        problem.update(plain(snapshot.problem or "", 500))
        runs.show(snapshot.runs)
        panes.show(snapshot)

    def on_run_list_chosen(self, event: RunList.Chosen) -> None:
        """Show another run."""
        self._watcher.select(event.run)

    async def run_action(
        self,
        action: str | ActionParseResult,
        default_namespace: DOMNode | None = None,
        namespaces: Mapping[str, DOMNode] | None = None,
    ) -> bool:
        """Perform an action. A key that comes before its widget exists does nothing."""
        try:
            return await super().run_action(action, default_namespace, namespaces)
        except NoMatches:
            return False

    def action_tab(self, tab: str) -> None:
        """Show a tab."""
        self._tab = tab  # used by _fill if the right side does not exist yet
        for panes in self.query(Panes):
            panes.open_tab(tab)

    def action_move(self, direction: str) -> None:
        """Move the cursor in the focused list, or scroll the visible pane."""
        focused = self.focused
        if isinstance(focused, DataTable | OptionList):
            move = focused.action_cursor_down if direction == "down" else focused.action_cursor_up
            move()
        else:
            for panes in self.query(Panes):
                panes.scroll(direction)

    def action_help(self) -> None:
        """Show the help screen."""
        from patchcore.tui.help import Help

        self.push_screen(Help())

    def action_new_run(self) -> None:
        """Open the form for a new run."""
        from patchcore.tui.new_run import NewRun

        study = self._snapshot.study
        can_start = study is not None and study.plan is not None
        self.push_screen(NewRun(self._study, can_start=can_start), self._after_start)

    def _after_start(self, run_id: str | None) -> None:
        if run_id is not None:
            self.query_one(RunList).choose(run_id)
            self._watcher.rescan()
            self.notify(plain(run_id, 100), title="Run started", markup=False)

    def action_stop_run(self) -> None:
        """Ask the shown run to stop, after a confirmation."""
        self._confirm_request("stop", "The run writes a checkpoint at its next step and ends. You can resume it later.")

    def action_pause_run(self) -> None:
        """Ask the shown run to pause, after a confirmation."""
        self._confirm_request(
            "pause", "The run writes a checkpoint at its next step and ends as paused. Resume it to continue."
        )

    def action_resume_run(self) -> None:
        """Start a new attempt of the shown run, after a confirmation."""
        run = self._snapshot.run
        if run is None:
            self._refuse("there is no run to resume")
        elif not run.state.state.is_over or run.state.state.value == "finished":
            self._refuse(f"the run is {run.state.state.value}: nothing to resume")
        else:
            from patchcore.tui.drive import resume

            path = run.path
            self._confirm("resume", run.run_id, "The run continues from its last checkpoint.", lambda: resume(path))

    def _confirm_request(self, verb: str, consequence: str) -> None:
        run = self._snapshot.run
        if run is None:
            self._refuse(f"there is no run to {verb}")
        elif not run.state.state.is_live:
            self._refuse(f"the run is {run.state.state.value}: nothing to {verb}")
        else:
            from patchcore.tui.drive import ask

            path = run.path
            self._confirm(verb, run.run_id, consequence, lambda: ask(path, verb))

    def _refuse(self, why: str) -> None:
        self.notify(why, severity="warning", markup=False)

    def _confirm(self, verb: str, run_id: str, consequence: str, act: Callable[[], str]) -> None:
        from patchcore.tui.confirm import Confirm

        def answered(yes: bool | None) -> None:
            if yes:
                self._act(verb, act)

        question = f"{verb.capitalize()} {plain(run_id, 100)}?"
        self.push_screen(Confirm(question, consequence, verb.capitalize()), answered)

    @work(thread=True, group="act", exit_on_error=False)
    def _act(self, verb: str, act: Callable[[], str]) -> None:
        try:
            message, failed = act(), False
        except Exception as error:  # shown to the user; the dashboard continues
            message, failed = str(error), True
        self._watcher.rescan()
        self.call_from_thread(
            self.notify,
            plain(message, 500),
            title=f"{verb.capitalize()} failed" if failed else "",
            severity="error" if failed else "information",
            timeout=10 if failed else 5,
            markup=False,
        )

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Also list every command that has a key in the command palette."""
        yield from super().get_system_commands(screen)
        yield SystemCommand("New run", "Fill in a form and start a training (n)", self.action_new_run)
        yield SystemCommand("Stop run", "Save a checkpoint and stop the shown run (s)", self.action_stop_run)
        yield SystemCommand("Pause run", "Save a checkpoint and pause the shown run (p)", self.action_pause_run)
        yield SystemCommand("Resume run", "Resume the shown run from its last checkpoint (r)", self.action_resume_run)
        for number, tab in enumerate(TABS, 1):
            yield SystemCommand(f"Show {tab}", f"Show the {tab} tab ({number})", lambda tab=tab: self.action_tab(tab))
