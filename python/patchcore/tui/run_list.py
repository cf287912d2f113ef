"""The list of runs, newest first, with the current state of each run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from patchcore.tui.states import state_parts
from patchcore.tui.text import number, share
from patchcore.views.terminal import plain

if TYPE_CHECKING:
    from patchcore.runs import RunSummary

__all__ = ["RunList"]


class RunList(OptionList):
    """A list to select a run from. Posts :class:`RunList.Chosen` when the highlight moves to another run."""

    class Chosen(Message):
        """Another run is highlighted.

        Args:
            run: The run folder.
        """

        def __init__(self, run: Path) -> None:
            super().__init__()
            self.run = run

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self.border_title = "Runs"
        self._runs: tuple[RunSummary, ...] = ()
        self._chosen: str | None = None
        self._wanted: str | None = None

    def choose(self, run_id: str) -> None:
        """Highlight this run as soon as it appears in the list."""
        self._wanted = run_id
        self._highlight()

    def show(self, runs: tuple[RunSummary, ...]) -> None:
        """Update the list. The highlight stays on the same run."""
        if runs == self._runs:
            return
        old, self._runs = self._runs, runs
        if [run.run_id for run in old] == [run.run_id for run in runs]:
            for index, (before, after) in enumerate(zip(old, runs, strict=True)):
                if before != after:
                    self.replace_option_prompt_at_index(index, _prompt(after))
            return
        with self.prevent(OptionList.OptionHighlighted):
            self.clear_options()
            self.add_options([Option(_prompt(run)) for run in runs])
        self.border_subtitle = f"{len(runs)}" if runs else ""
        self._highlight()

    def _highlight(self) -> None:
        if not self._runs:
            return
        ids = [run.run_id for run in self._runs]
        if self._wanted in ids:
            self._chosen, self._wanted = self._wanted, None
        index = ids.index(self._chosen) if self._chosen in ids else 0
        with self.prevent(OptionList.OptionHighlighted):
            self.highlighted = index
        self._choose(index)

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        """Post the run that the user moved to."""
        event.stop()
        if event.option_index < len(self._runs):
            self._choose(event.option_index)

    def _choose(self, index: int) -> None:
        run = self._runs[index]
        self._chosen = run.run_id
        self.post_message(self.Chosen(run.path))


def _prompt(run: RunSummary) -> Content:
    stamp, _, name = run.run_id.partition("-")
    facts = []
    if run.total_steps:
        facts.append(share(min(1.0, run.step / run.total_steps)).replace(" ", ""))
    if run.best_dsc_mean is not None:
        facts.append(f"DSC {number(run.best_dsc_mean, 2)}")
    if stamp[:8].isdigit() and len(stamp) >= 13:
        facts.append(f"{stamp[4:6]}-{stamp[6:8]} {stamp[9:11]}:{stamp[11:13]}")
    glyph, word = state_parts(run.state.state)
    return Content.assemble(
        glyph,
        f" {plain(name or run.run_id, 80)}\n  ",
        word,
        Content.styled("".join(f" · {plain(fact, 20)}" for fact in facts), "$foreground-muted"),
    )
