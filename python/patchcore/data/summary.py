"""What an analysis found, for a terminal of 80 columns and for programs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from patchcore.data.analysis import Analysis
from patchcore.study.cases import CaseRecord
from patchcore.study.fingerprint import AxisSummary, Fingerprint, HuSummary, LabelFingerprint

__all__ = ["print_summary", "summary_json"]

_LISTED = 20
_BINS = ("< 5 mm", "5–10 mm", "10–20 mm", "≥ 20 mm")


def summary_json(analysis: Analysis) -> dict[str, Any]:
    """Return what was found as plain data; the fingerprint without its cases, which its file holds."""
    fingerprint = analysis.fingerprint
    return {
        "schema_version": 1,
        "study": str(analysis.study.path),
        "dataset": str(analysis.study.dataset_root),
        "layout": {"name": analysis.layout.name, "reason": analysis.layout.reason},
        "grouping": analysis.grouping.description,
        "accepted": sum(record.accepted for record in analysis.records),
        "excluded": [record.case_id for record in analysis.records if record.status == "excluded"],
        "quarantined": [
            {"case_id": record.case_id, "reason": record.reason, "remedy": record.remedy}
            for record in analysis.quarantined
        ],
        "figure": None if analysis.figure is None else str(analysis.figure),
        "reused": analysis.reused_count,
        "fingerprint": None if fingerprint is None else fingerprint.model_dump(mode="json", exclude={"cases"}),
    }


def print_summary(analysis: Analysis, console: Console) -> None:
    """Print what was found: layout, cases with their reasons, lesions, geometry, HU, and what to do next.

    Text that comes from files is shown as it is; no markup in it is interpreted.
    """
    counts = dict.fromkeys(("accepted", "quarantined", "excluded"), 0)
    for record in analysis.records:
        counts[record.status] += 1
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("Layout", Text(f"{analysis.layout.name}: {analysis.layout.reason}"))
    parts = [f"{number} {status}" for status, number in counts.items() if number or status == "accepted"]
    if analysis.reused_count:
        parts.append(f"{analysis.reused_count} unchanged, not measured again")
    facts.add_row("Cases", Text(", ".join(parts)))
    patients = {record.patient for record in analysis.records if record.accepted}
    facts.add_row("Patients", Text(f"{len(patients)}; {analysis.grouping.description}"))
    kept = _decisions(analysis)
    if kept:
        facts.add_row("Decisions", Text(kept))
    fingerprint = analysis.fingerprint
    if fingerprint is not None:
        _add_cohort(facts, fingerprint)
    console.print(facts)
    if fingerprint is not None:
        _print_lesions(console, fingerprint)
    if analysis.quarantined:
        _print_quarantined(console, analysis.quarantined)
    study = analysis.study.path
    if fingerprint is None:
        console.print("\nNo case was accepted: there is nothing to plan from.", style="bold")
    else:
        written = ["fingerprint.json", "lesions.csv", "cases.jsonl"]
        if analysis.figure is None and any(case.lesions for case in fingerprint.cases):
            console.print("\nNo figure: it needs matplotlib (pip install 'patchcore[figures]')")
        elif analysis.figure is not None:
            written.append(str(analysis.figure.relative_to(study)))
        console.print(Text(f"\nWritten to {study}: {', '.join(written)}"))
        command = f"patchcore plan {shlex.quote(str(study))}"
        console.print(Text.assemble("Next: ", (command, "bold")), soft_wrap=True)


def _decisions(analysis: Analysis) -> str:
    """Return what was decided, now or before: it holds until decided otherwise."""
    parts = []
    for name, value in analysis.study.decisions().items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        if shown:
            parts.append(f"{name.replace('_', '-')} {shown}")
    return "; ".join(parts)


def _add_cohort(facts: Table, fingerprint: Fingerprint) -> None:
    label = fingerprint.lesion_label
    if label is not None:
        known = fingerprint.label(label)
        named = "" if known is None or known.name == f"label {label}" else f" ({known.name})"
        facts.add_row("Lesion label", Text(f"{label}{named}, {fingerprint.lesion_label_reason}"))
    if fingerprint.spacing is not None and fingerprint.shape is not None:
        facts.add_row("Spacing", _axes(fingerprint.spacing, "mm", 3))
        facts.add_row("Shape", _axes(fingerprint.shape, "voxels", 4))
    if fingerprint.hu is not None:
        facts.add_row("HU in lesions", _hu(fingerprint.hu.within))
        facts.add_row(f"HU within {fingerprint.hu.dilation_mm:g} mm", _hu(fingerprint.hu.around))
    elif any(case.lesions for case in fingerprint.cases):
        facts.add_row("HU", Text("none: there are no images"))


def _axes(axes: AxisSummary, unit: str, digits: int) -> Text:
    def times(values: Sequence[float]) -> str:
        return " × ".join(f"{value:.{digits}g}" for value in values)

    text = f"median {times(axes.median)} {unit} (x × y × z)"
    if axes.min != axes.max:
        text += f"\nfrom {times(axes.min)} to {times(axes.max)}"
    return Text(text)


def _hu(hu: HuSummary) -> Text:
    low, high, median = (hu.percentiles[name] for name in ("0.5", "99.5", "50"))
    return Text(f"0.5 % {low:.0f}, median {median:.0f}, 99.5 % {high:.0f}; mean {hu.mean:.0f} ± {hu.std:.0f}")


def _print_lesions(console: Console, fingerprint: Fingerprint) -> None:
    shown = sorted(fingerprint.labels, key=lambda item: (item.label != fingerprint.lesion_label, item.label))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("Label")
    for heading in ("Lesions", "Cases", "Mean", "Median", "Geo.mean", "Largest", "At border"):
        table.add_column(heading, justify="right", no_wrap=True)
    for item in shown[:_LISTED]:
        table.add_row(*_label_row(item))
    console.print(table)
    if len(shown) > _LISTED:
        console.print(f"and {len(shown) - _LISTED} more labels in fingerprint.json")
    target = next((item for item in shown if item.label == fingerprint.lesion_label), None)
    if target is not None and target.lesion_count:
        most = max(target.size_bins)
        sizes = Table.grid(padding=(0, 2))
        sizes.add_column(justify="right", no_wrap=True)
        sizes.add_column(justify="right", no_wrap=True)
        sizes.add_column(no_wrap=True)
        for name, count in zip(_BINS, target.size_bins, strict=True):
            sizes.add_row(name, str(count), "█" * round(30 * count / most))
        console.print("Lesions by equivalent diameter", style="bold")
        console.print(Padding(sizes, (0, 0, 0, 2)))
    if fingerprint.speck_count:
        console.print(f"{fingerprint.speck_count} components below {fingerprint.min_volume_mm3:g} mm³ are not counted")


def _label_row(item: LabelFingerprint) -> list[Text]:
    name = str(item.label) if item.name == f"label {item.label}" else f"{item.label} {item.name}"
    cells = [name, str(item.lesion_count), str(item.case_count)]
    if item.volume is None:
        cells += ["–"] * 4
    else:
        volume = item.volume
        figures = (volume.mean_mm3, volume.median_mm3, volume.geometric_mean_mm3, volume.max_mm3)
        cells += [_volume(value) for value in figures]
    cells.append(f"{item.border_share:.0%}")
    return [Text(cell) for cell in cells]


def _volume(mm3: float) -> str:
    if mm3 < 1000:
        return f"{mm3:.3g} mm³"
    return f"{mm3 / 1000:.3g} mL" if mm3 < 1e6 else f"{mm3 / 1000:.0f} mL"


def _print_quarantined(console: Console, quarantined: Sequence[CaseRecord]) -> None:
    console.print(f"\nQuarantined: {len(quarantined)}", style="bold")
    for record in quarantined[:_LISTED]:
        console.print(Text.assemble((record.case_id, "bold"), f": {record.reason or ''}"))
        if record.remedy:
            console.print(Padding(Text(f"→ {record.remedy}"), (0, 0, 0, 2)))
    if len(quarantined) > _LISTED:
        console.print(f"and {len(quarantined) - _LISTED} more in cases.jsonl")
