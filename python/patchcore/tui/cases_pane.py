"""The cases tab: accepted and quarantined cases of the study, with the reason and the remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from patchcore.tui.tables import TextTable
from patchcore.views.terminal import plain

if TYPE_CHECKING:
    from patchcore.tui.watcher import Snapshot

__all__ = ["CasesPane"]


class CasesPane(Vertical):
    """A table of all cases, quarantined cases first."""

    def compose(self) -> ComposeResult:
        """Create the summary and the table."""
        yield Static("Reading the study …", markup=False)
        yield TextTable(id="study-cases")

    def show(self, snapshot: Snapshot) -> None:
        """Show the study's cases."""
        facts = snapshot.study
        if facts is None:
            return
        summary, table = self.query_one(Static), self.query_one(TextTable)
        table.display = bool(facts.cases)
        if facts.cases_error:
            summary.update(plain(facts.cases_error))
        elif not facts.cases:
            summary.update("No cases yet. To read a data set, run\n\n    patchcore analyze DATASET STUDY")
        else:
            bad = sum(case.status == "quarantined" for case in facts.cases)
            patients = len({case.patient for case in facts.cases})
            summary.update(
                f"{len(facts.cases)} cases of {patients} patients · {len(facts.cases) - bad} accepted · "
                f"{bad} quarantined"
            )
        cases = sorted(facts.cases, key=lambda case: case.status != "quarantined")
        rows = [[case.case_id, case.patient, case.status, case.reason, case.remedy] for case in cases]
        table.show(("case", "patient", "status", "reason", "what to do"), rows, numbers_from=9)
