"""The curves tab: live curves of the shown run for DSC on whole volumes, DSC on windows, and the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Vertical

from patchcore.tui.plot import Curve, Plot

if TYPE_CHECKING:
    from patchcore.tui.watcher import Snapshot

__all__ = ["Curves"]


class Curves(Vertical):
    """Two plots over steps: DSC and loss."""

    def compose(self) -> ComposeResult:
        """Create the two plots."""
        yield Plot("DSC", floor=0.0, id="dsc")
        yield Plot("Loss", id="loss")

    def show(self, snapshot: Snapshot) -> None:
        """Draw the curves of the shown run. Without a run, the plots are empty."""
        view = snapshot.run
        series = view.series if view is not None else {}
        dsc = []
        for name, label, colour, markers in (
            ("train/window_dsc", "windows", 2, False),
            ("val/dsc_global", "val. global", 3, True),
            ("val/dsc_mean", "val. mean", 1, True),
        ):
            if name in series:
                one = series[name]
                dsc.append(Curve(label, one.steps, one.values, colour=colour, markers=markers))
        self.query_one("#dsc", Plot).show(dsc)
        loss = series.get("train/loss")
        curves = [Curve("training", loss.steps, loss.values, colour=2)] if loss is not None else []
        self.query_one("#loss", Plot).show(curves)
