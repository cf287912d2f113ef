"""The header of the shown run: state, progress and the most important alert, in a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content
from textual.widgets import Static

from patchcore.tui.states import LEVEL_COLOUR, state_content
from patchcore.tui.text import clock, count, dsc, share
from patchcore.views.terminal import plain

if TYPE_CHECKING:
    from patchcore.runs import RunView

__all__ = ["RunHeader"]

_NO_RUN = Content.styled("No run is selected.", "$foreground-muted")


class RunHeader(Static):
    """State, progress bar, step, epoch, ETA, reason and one alert with its remedy."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(_NO_RUN, id=id, markup=False)
        self._view: RunView | None = None

    def show(self, view: RunView | None) -> None:
        """Show this run. None: show that no run is selected."""
        self._view = view
        self._compose_text()

    def on_resize(self) -> None:
        """Fit the progress bar to the new width."""
        self._compose_text()

    def _compose_text(self) -> None:
        view = self._view
        if view is None:
            self.update(_NO_RUN)
            return
        lines = [_title(view), _progress(view, self.size.width), _facts(view)]
        if view.state.reason:
            lines.append(Content(plain(view.state.reason, 300)))
        # Show the newest warning or error of this attempt. Show information only if there is no warning or error.
        alerts = [alert for alert in view.alerts if alert.attempt == view.attempts]
        if alerts:
            pressing = [alert for alert in alerts if alert.level != "info"]
            alert = (pressing or alerts)[-1]
            text = plain(alert.message, 300) + (f"; {plain(alert.remedy, 300)}" if alert.remedy else "")
            more = f" (+{len(alerts) - 1} more on the Details tab)" if len(alerts) > 1 else ""
            colour = LEVEL_COLOUR.get(alert.level, "$text-warning")
            lines.append(Content.styled(f"{plain(alert.level, 20)}: {text}{more}", colour))
        self.update(Content("\n").join(lines))


def _title(view: RunView) -> Content:
    name = view.run_id.partition("-")[2] or view.run_id
    phase = f" · {plain(view.phase, 30)}" if view.phase and view.state.state.is_live else ""
    return Content.assemble(
        state_content(view.state.state), Content(phase), "  ", Content.styled(plain(name, 120), "bold")
    )


def _progress(view: RunView, width: int) -> Content:
    done = min(1.0, view.step / view.total_steps) if view.total_steps else 0.0
    facts = [f"{count(view.step)}/{count(view.total_steps) if view.total_steps else '–'}"]
    if view.total_steps:
        facts.append(share(done))
    if view.epoch is not None:
        facts.append(f"epoch {view.epoch}")
    if view.state.state.is_live:
        facts.append(f"ETA {clock(view.eta_s)}")
    text = " · ".join(facts)
    bar = max(0, min(40, width - len(text) - 2))
    filled = round(done * bar)
    return Content.assemble(
        Content.styled("━" * filled, "$text-success"),
        Content.styled("─" * (bar - filled), "$foreground-disabled"),
        Content(f"  {text}"),
    )


def _facts(view: RunView) -> Content:
    from patchcore.runs.events import dsc_by_patch

    facts = [plain(view.kind, 30)]
    if view.attempts > 1:
        facts.append(f"attempt {view.attempts}")
    best = view.best_validation
    if best is not None:
        facts.append(f"best DSC {dsc(best.dsc_mean)} at step {count(best.step)}")
        by_size = ", ".join(f"{plain(size, 20)} {dsc(value)}" for size, value in dsc_by_patch(best.values).items())
        if by_size:
            facts.append(f"by patch size: {by_size}")
    if view.parent:
        facts.append(f"from {plain(view.parent, 60)}")
    if view.bad_lines:
        facts.append(f"{view.bad_lines} unreadable lines skipped")
    return Content.styled(" · ".join(facts), "$foreground-muted")
