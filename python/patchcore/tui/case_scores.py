"""The scores tab: results of each case in the last validation of the shown run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from patchcore.runs.events import VAL_LESION_PRECISION, VAL_LESION_RECALL
from patchcore.runs.values import as_number
from patchcore.tui.tables import TextTable
from patchcore.tui.text import count, dsc, number

if TYPE_CHECKING:
    from patchcore.tui.watcher import Snapshot

__all__ = ["CaseScores"]

_HEADINGS = {
    "lesions": "lesions found",
    "false_positives": "false positives",
    "volume_mm3": "true mm³",
    "predicted_mm3": "predicted mm³",
}
# Not shown as columns. The "lesions found" column already shows the counts of lesions and of lesions found.
_UNSHOWN = frozenset(
    {"case_id", "dsc", "step", "epoch", "attempt", "size_bin", "lesion_count", "lesions_found", "predicted"}
)
_DAMAGED = "unreadable"
_NOTHING = "No validation yet. The DSC per case appears after the first validation."


class CaseScores(Vertical):
    """DSC per case on whole volumes, with the mean DSC, the global DSC and the number of cases."""

    def compose(self) -> ComposeResult:
        """Create the summary and the table."""
        yield Static(_NOTHING, id="case-summary", markup=False)
        yield TextTable(id="case-table")

    def show(self, snapshot: Snapshot) -> None:
        """Show the shown run's last validation."""
        view, cases = snapshot.run, snapshot.cases
        validation = view.last_validation if view is not None else None
        table = self.query_one(TextTable)
        table.display = bool(cases)
        if validation is None:
            self.query_one(Static).update(_NOTHING)
            table.show((), ())
            return
        parts = [f"Validation at step {count(validation.step)}", "whole volumes, training grid"]
        if snapshot.role:
            parts.append(f"cases: {snapshot.role}")
        scored = [value for value in (_dsc(case) for case in cases if not _unreadable(case)) if value is not None]
        empty = len(scored) - sum(map(math.isfinite, scored))
        cases_of = f"n = {validation.n_cases}" if validation.n_cases is not None else "n = –"
        parts.append(f"mean DSC {dsc(validation.dsc_mean)} · global {dsc(validation.dsc_global)} · {cases_of}")
        for name, words in ((VAL_LESION_RECALL, "lesion recall"), (VAL_LESION_PRECISION, "precision")):
            value = validation.values.get(name)
            if value is not None and math.isfinite(value):
                parts.append(f"{words} {number(value, 2)}")
        if empty:
            parts.append(f"{empty} without lesion and prediction, excluded from the mean")
        if damaged := sum(map(_unreadable, cases)):
            parts.append(f"{damaged} unreadable: the record of these cases is damaged")
        self.query_one(Static).update(" · ".join(parts))
        names = _columns(cases)
        rows = [
            [
                str(case.get("case_id", "–")),
                _DAMAGED if _unreadable(case) else dsc(_dsc(case)),
                *(_cell(case.get(name)) for name in names),
            ]
            for case in cases
        ]
        table.show(("case", "DSC", *(_HEADINGS.get(name, name.replace("_", " ")) for name in names)), rows)


def _dsc(case: Mapping[str, Any]) -> float | None:
    """Return the DSC of the case. NaN: label and prediction are both empty. None: no DSC is recorded."""
    if "dsc" not in case:
        return None
    value = case["dsc"]
    values = value.values() if isinstance(value, Mapping) else (value,)
    finite = [number for number in map(as_number, values) if number is not None]
    return sum(finite) / len(finite) if finite else math.nan


def _unreadable(case: Mapping[str, Any]) -> bool:
    """Whether the DSC is neither a number nor missing: another program has written or damaged the record."""
    value = case.get("dsc")
    values = value.values() if isinstance(value, Mapping) else (value,)
    return any(one is not None and as_number(one) is None for one in values)


def _columns(cases: tuple[Mapping[str, Any], ...]) -> list[str]:
    """Return the names of the other numbers and lists in the records, names in `_HEADINGS` first, at most 8."""
    names = dict.fromkeys(name for name in _HEADINGS if any(name in case for case in cases))
    for case in cases:
        for key, value in case.items():
            if key not in _UNSHOWN and isinstance(value, int | float | list):
                names[key] = None
    return list(names)[:8]


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, list):
        return _lesions(value)
    known = as_number(value)
    if known is None:
        return _DAMAGED
    return count(known) if isinstance(value, int) else number(known, 1 if abs(known) >= 10 else 3)


def _lesions(records: list[Any]) -> str:
    """Return ``found/all``, the number of lesions found and of all lesions, or only the number of all lesions."""
    found = [item.get("found") for item in records if isinstance(item, Mapping)]
    return f"{sum(map(bool, found))}/{len(found)}" if any(f is not None for f in found) else str(len(records))
