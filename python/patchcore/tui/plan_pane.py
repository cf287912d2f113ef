"""The plan tab: patch size, reason, cost of each candidate, and histogram of the lesion volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from patchcore.tui.histogram import Histogram, Mark
from patchcore.tui.tables import TextTable
from patchcore.tui.text import count, dsc, number, share, triple
from patchcore.views.terminal import plain

if TYPE_CHECKING:
    from patchcore.config.plan import TargetPlan
    from patchcore.tui.study_facts import StudyFacts
    from patchcore.tui.watcher import Snapshot

__all__ = ["PlanPane"]

_LEGEND = (
    "▸ chosen patch size · attn: self-attention of one forward pass, and its share of the network's FLOP · "
    "smaller: share of lesions smaller than one patch"
)
_LEARNED = " · DSC: best validation of the shown run, a network for several patch sizes"


class PlanPane(VerticalScroll):
    """Patch size, p*, candidates, histogram, reason and warnings of one target. ``t`` shows the next target."""

    BINDINGS: ClassVar[list[BindingType]] = [("t", "next_target", "Next target")]

    def __init__(self) -> None:
        super().__init__()
        self._facts: StudyFacts | None = None
        self._target = 0
        self._learned: dict[str, float] = {}  # patch size → DSC in the shown run, if its network is flexible

    def compose(self) -> ComposeResult:
        """Create the widgets of the pane."""
        yield Static("Reading the study …", id="plan-summary", markup=False)
        yield TextTable(id="plan-candidates", show_cursor=False)
        yield Static(_LEGEND, id="plan-legend", markup=False)
        yield Histogram(id="plan-histogram")
        yield Static("", id="plan-reason", markup=False)

    def show(self, snapshot: Snapshot) -> None:
        """Show the study's plan."""
        from patchcore.runs.events import dsc_by_patch

        best = snapshot.run.best_validation if snapshot.run is not None else None
        learned = dsc_by_patch(best.values) if best is not None else {}
        if snapshot.study is self._facts and learned == self._learned:
            return
        self._facts, self._learned = snapshot.study, learned
        self._update()

    def action_next_target(self) -> None:
        """Show the plan for the next lesion label."""
        self._target += 1
        self._update()

    def _update(self) -> None:
        facts = self._facts
        if facts is None:
            return
        table, histogram = self.query_one(TextTable), self.query_one(Histogram)
        table.display = self.query_one("#plan-legend").display = facts.plan is not None
        histogram.display = bool(facts.volumes_mm3)
        if facts.plan is None:
            self.query_one("#plan-summary", Static).update(_no_plan(facts))
            self.query_one("#plan-reason", Static).update("")
            if facts.volumes_mm3:
                histogram.show(max(facts.volumes_mm3.values(), key=len), [])
            return
        targets = facts.plan.targets
        target = targets[self._target % len(targets)]
        self.query_one("#plan-summary", Static).update(_summary(target, len(targets)))
        self.query_one("#plan-reason", Static).update(_reason(target, facts.lesions_error))
        headings = ("patch", "tokens", "attn GFLOP", "attn %", "smaller", *(["DSC"] if self._learned else []))
        table.show(headings, _candidates(target, self._learned))
        legend = _LEGEND + (_LEARNED if self._learned else "")
        self.query_one("#plan-legend", Static).update(legend)
        volumes = facts.volumes_mm3.get(target.lesion_label)
        histogram.display = volumes is not None
        if volumes is not None:
            marks = [Mark(triple(item.patch_size), item.volume_mm3, item.chosen) for item in target.candidates]
            histogram.show(volumes[volumes >= target.min_volume_mm3], marks)


def _no_plan(facts: StudyFacts) -> Content:
    if facts.plan_error:
        return Content.styled(plain(facts.plan_error), "$text-error")
    if facts.cases or facts.volumes_mm3:
        return Content("No plan yet. To choose the patch size, run\n\n    patchcore plan STUDY")
    return Content(
        "Nothing was measured yet. First measure the data set, then choose the patch size:\n\n"
        "    patchcore analyze DATASET STUDY\n    patchcore plan STUDY"
    )


def _summary(target: TargetPlan, targets: int) -> Content:
    ideal = target.ideal_edges[0]
    interval = f" (95 % interval {ideal.interval[0]:.1f}–{ideal.interval[1]:.1f})" if ideal.interval else ""
    low, high = target.hu_range
    elsewhere = [
        f"{edge.edge[0]:.1f} at {'each case’s own spacing' if edge.spacing is None else triple(edge.spacing) + ' mm'}"
        for edge in target.ideal_edges[1:]
    ]
    lines = [
        Content.assemble(
            ("Patch size ", "$foreground-muted"),
            (triple(target.patch_size), "bold $text-success"),
            Content(f"   p* {target.ideal_edge:.1f}{interval} voxels at {triple(target.spacing)} mm"),
        ),
        Content(
            f"{plain(target.label_name, 60)} (label {target.lesion_label}) · "
            f"{target.lesion_count} lesions of {target.patient_count} patients · "
            f"mean {target.mean_volume_mm3:,.0f} mm³, median {target.median_volume_mm3:,.0f} mm³"
        ),
        Content(
            f"Window {triple(target.window_size)} voxels, {share(target.padding_share)} padding · "
            f"{low:g} … {high:g} HU · rule {target.rule}" + (f" · p* {', '.join(elsewhere)}" if elsewhere else "")
        ),
    ]
    if targets > 1:
        lines.append(Content.styled(f"one of {targets} targets: press t for the next", "$text-accent"))
    return Content("\n").join(lines)


def _candidates(target: TargetPlan, learned: Mapping[str, float]) -> list[list[str]]:
    """Return the rows of the table of candidates; `learned` is the DSC by patch size, if it is known."""
    from patchcore.config.patches import size_text

    return [
        [
            ("▸ " if item.chosen else "  ") + triple(item.patch_size),
            count(item.tokens),
            number(item.attention_gflop, 1),
            share(item.attention_share),
            share(item.smaller_lesions_share),
            *([dsc(learned.get(size_text(item.patch_size)))] if learned else []),
        ]
        for item in target.candidates
    ]


def _reason(target: TargetPlan, lesions_error: str | None) -> Content:
    others = ", ".join(f"{outcome.rule} {triple(outcome.patch_size)}" for outcome in target.rules)
    lines = [Content(plain(target.reason)), Content.styled(f"Patch size by rule: {plain(others)}", "$foreground-muted")]
    problems = [*target.warnings, *([lesions_error] if lesions_error else [])]
    lines.extend(Content.styled(f"warning: {plain(text)}", "$text-warning") for text in problems)
    return Content("\n").join(lines)
