"""The curves tab: live curves of the shown run for DSC on whole volumes, DSC on windows, and the loss.

A flexible network has one more plot: its DSC at each patch size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Vertical

from patchcore.tui.plot import COLOURS, Curve, Plot

if TYPE_CHECKING:
    from patchcore.tui.watcher import Snapshot

__all__ = ["Curves"]


class Curves(Vertical):
    """Two or three plots over steps: DSC, DSC by patch size, and loss."""

    def compose(self) -> ComposeResult:
        """Create the plots."""
        yield Plot("DSC", floor=0.0, id="dsc")
        yield Plot("DSC by patch size", floor=0.0, id="patches")
        yield Plot("Loss", id="loss")

    def show(self, snapshot: Snapshot) -> None:
        """Draw the curves of the shown run. Without a run, the plots are empty."""
        from patchcore.runs.events import dsc_by_patch, val_dsc_patch

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
        sizes = dsc_by_patch(dict.fromkeys(series, 0.0))
        patches = self.query_one("#patches", Plot)
        patches.display = bool(sizes)
        named = [(size, series[val_dsc_patch(()) + size]) for size in sizes]
        patches.show(
            [
                Curve(size, one.steps, one.values, colour=1 + number % COLOURS, markers=True)
                for number, (size, one) in enumerate(named)
            ]
        )
        loss = series.get("train/loss")
        curves = [Curve("training", loss.steps, loss.values, colour=2)] if loss is not None else []
        self.query_one("#loss", Plot).show(curves)
