"""Summary of an analysis, as text for a terminal of 80 columns and as JSON for programs."""

from __future__ import annotations

import io
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from patchcore.lesions.size_bins import SIZE_BIN_NAMES
from patchcore.planning.reasons import format_volume
from patchcore.study.analysis import Analysis
from patchcore.study.cases import patients_on_both_sides
from patchcore.study.fingerprint import AxisSummary, Fingerprint, HuSummary, LabelFingerprint, VolumeSummary
from patchcore.views.accounting import STATUS_WORDS, files_json, files_lines
from patchcore.views.study_figures import figure_paths
from patchcore.views.summary_findings import Command, show_findings

__all__ = ["print_summary", "summary_json", "summary_text"]

_LISTED = 20


def summary_json(analysis: Analysis) -> dict[str, Any]:
    """Return the results as plain data. The fingerprint is without its cases, which are in ``fingerprint.json``."""
    fingerprint = analysis.fingerprint
    statuses = Counter(record.status for record in analysis.records)
    figures = [str(path) for path in figure_paths(analysis.study)]
    return {
        "schema_version": 3,
        "study": str(analysis.study.path),
        "dataset": str(analysis.study.dataset_root),
        "layout": {"name": analysis.layout.name, "reason": analysis.layout.reason},
        "grouping": analysis.grouping.description,
        **{status: statuses[status] for status in ("accepted", "test")},
        "patients_on_both_sides": patients_on_both_sides(analysis.records),
        "excluded": [record.case_id for record in analysis.records if record.status == "excluded"],
        **{
            status: [
                {"case_id": record.case_id, "reason": record.reason, "remedy": record.remedy}
                for record in analysis.records
                if record.status == status
            ]
            for status in ("held", "quarantined")
        },
        "files": files_json(analysis.layout),
        "dataset_findings": [finding.model_dump(mode="json") for finding in analysis.findings],
        "findings": [
            {"case_id": record.case_id, **finding.model_dump(mode="json")}
            for record in analysis.records
            for finding in record.findings
        ],
        "figure": figures[0] if figures else None,
        "figures": figures,
        "reused": analysis.reused_count,
        "fingerprint": None if fingerprint is None else fingerprint.model_dump(mode="json", exclude={"cases"}),
    }


def print_summary(analysis: Analysis, console: Console) -> None:
    """Print the results: layout, cases, lesions, burden, geometry, HU, findings, and the next command.

    Text from files is shown as it is, without markup. Commands are not wrapped, so that they can be copied.
    """
    for part in _parts(analysis):
        if isinstance(part, Command):
            console.print(part.text, soft_wrap=True)
        else:
            console.print(part, markup=False, highlight=False)


def summary_text(analysis: Analysis, width: int = 80) -> str:
    """Return the output of :func:`print_summary` as plain text with `width` columns."""
    out = io.StringIO()
    print_summary(
        analysis, Console(file=out, width=width, color_system=None, force_terminal=False, legacy_windows=False)
    )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _parts(analysis: Analysis) -> Iterator[RenderableType | Command]:
    fingerprint = analysis.fingerprint
    yield _facts(analysis)
    if fingerprint is not None:
        yield from _lesions(fingerprint)
    yield from show_findings(analysis.records, command=analysis.command, dataset=analysis.findings)
    study = analysis.study.path
    yield Text()
    if fingerprint is None:
        yield Text("No case was accepted, so no patch size can be planned.", style="bold")
        return
    written = ["fingerprint.json", "lesions.csv", "cases.jsonl"]
    figures = figure_paths(analysis.study)
    if not figures:
        yield Text("No figures: matplotlib is not installed (pip install 'patchcore[figures]')")
    else:
        kinds = sorted({path.suffix[1:] for path in figures})
        written += [f"figures/{name}.{{{','.join(kinds)}}}" for name in dict.fromkeys(path.stem for path in figures)]
    yield Text(f"Written to {study}: {', '.join(written)}")
    yield Command(Text.assemble("Next: ", (f"patchcore plan {shlex.quote(str(study))}", "bold")))


def _facts(analysis: Analysis) -> Table:
    counts = Counter(record.status for record in analysis.records)
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("Layout", Text(f"{analysis.layout.name}: {analysis.layout.reason}"))
    parts = [f"{counts[key]} {word}" for key, word in STATUS_WORDS.items() if counts[key] or key == "accepted"]
    if analysis.reused_count:
        parts.append(f"{analysis.reused_count} unchanged, not measured again")
    facts.add_row("Cases", Text(", ".join(parts)))
    facts.add_row("Files", Text("\n".join(files_lines(analysis.layout, analysis.study.dataset_root))))
    patients = {record.patient for record in analysis.records if record.accepted}
    facts.add_row("Patients", Text(f"{len(patients)}; {analysis.grouping.description}"))
    both = patients_on_both_sides(analysis.records)
    if both:
        who = ", ".join(both[:3]) + (f" and {len(both) - 3} more" if len(both) > 3 else "")
        facts.add_row(
            "",
            Text(
                f"Warning: {who} {'has' if len(both) == 1 else 'have'} both training and test cases; mark all cases "
                "of a patient for testing, or none"
            ),
        )
    kept = _decisions(analysis)
    if kept:
        facts.add_row("Decisions", Text(kept))
    ignored = sorted({item.ignore_label for item in analysis.records if item.ignore_label is not None})
    if ignored:
        facts.add_row("Ignored label", Text(f"{ignored[0]}: its voxels count in no measure, no loss and no metric"))
    if analysis.fingerprint is not None:
        _add_cohort(facts, analysis.fingerprint)
    return facts


def _decisions(analysis: Analysis) -> str:
    """Return the decisions that apply, made in this analysis or an earlier one."""
    parts = []
    for name, value in analysis.study.decisions().items():
        if isinstance(value, dict):
            shown = ", ".join(f"{key}={_joined(item)}" for key, item in value.items())
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        if shown:
            parts.append(f"{name.replace('_', '-')} {shown}")
    return "; ".join(parts)


def _joined(value: Any) -> str:
    return ",".join(f"{item:g}" for item in value) if isinstance(value, list | tuple) else str(value)


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
        facts.add_row("HU", Text("not measured: there are no images"))
    if fingerprint.segments_note:
        facts.add_row("Segments", Text(fingerprint.segments_note))


def _axes(axes: AxisSummary, unit: str, digits: int) -> Text:
    def times(values: Sequence[float]) -> str:
        return " × ".join(f"{value:.{digits}g}" for value in values)

    text = f"median {times(axes.median)} {unit} (x × y × z)"
    if axes.min != axes.max:
        text += f"\nfrom {times(axes.min)} to {times(axes.max)}"
        if "5" in axes.percentiles and "95" in axes.percentiles:
            text += f"\n5 to 95 %: {times(axes.percentiles['5'])} to {times(axes.percentiles['95'])}"
    return Text(text)


def _hu(hu: HuSummary) -> Text:
    low, high, median = (hu.percentiles[name] for name in ("0.5", "99.5", "50"))
    return Text(f"0.5 % {low:.0f}, median {median:.0f}, 99.5 % {high:.0f}; mean {hu.mean:.0f} ± {hu.std:.0f}")


def _lesions(fingerprint: Fingerprint) -> Iterator[RenderableType]:
    shown = sorted(fingerprint.labels, key=lambda item: (item.label != fingerprint.lesion_label, item.label))
    table = _table("Label", ("Lesions", "Cases", "Mean", "Median", "Geo.mean", "Largest", "At border"))
    for item in shown[:_LISTED]:
        table.add_row(*_label_row(item))
    yield Text()
    yield table
    if len(shown) > _LISTED:
        yield Text(f"and {len(shown) - _LISTED} more labels in fingerprint.json")
    target = next((item for item in shown if item.label == fingerprint.lesion_label), None)
    if target is not None and target.volume is not None:
        yield Text("\nLesions by equivalent diameter", style="bold")
        yield Padding(_bars(target), (0, 0, 0, 2))
        yield Text()
        yield _percentiles(target)
        yield Text("Rows per case or patient include only cases and patients with a lesion", style="dim")
    if fingerprint.speck_count:
        yield Text(
            f"{fingerprint.speck_count} components below {fingerprint.min_volume_mm3:g} mm³ are not counted as lesions"
        )


def _bars(target: LabelFingerprint) -> Table:
    most = max(target.size_bins)
    sizes = Table.grid(padding=(0, 2))
    sizes.add_column(justify="right", no_wrap=True)
    sizes.add_column(justify="right", no_wrap=True)
    sizes.add_column(no_wrap=True)
    for name, count in zip(SIZE_BIN_NAMES, target.size_bins, strict=True):
        sizes.add_row(name, str(count), "█" * round(30 * count / most))
    return sizes


def _percentiles(target: LabelFingerprint) -> Table:
    """Return the distributions per lesion, case and patient. Only cases and patients with a lesion are counted."""
    table = _table("Volumes in mL", ("Mean", "5 %", "25 %", "Median", "75 %", "95 %", "Largest"))

    def volumes(name: str, of: VolumeSummary | None) -> None:
        if of is not None:
            low, first, third, high = (of.percentiles_mm3[p] for p in ("5", "25", "75", "95"))
            row = (of.mean_mm3, low, first, of.median_mm3, third, high, of.max_mm3)
            table.add_row(name, *(_number(value / 1000) for value in row))

    volumes("volume per lesion", target.volume)
    for who, burden in (("case", target.burden_per_case), ("patient", target.burden_per_patient)):
        # If every case is a different patient, the rows per patient would repeat the rows per case.
        if burden is not None and (who == "case" or len(burden.names) != target.case_count):
            volumes(f"volume per {who}", burden.volume)
            of = burden.lesions
            low, first, third, high = (of.percentiles[p] for p in ("5", "25", "75", "95"))
            row = (of.mean, low, first, of.median, third, high, of.max)
            table.add_row(f"lesions per {who}", *(_number(value) for value in row))
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _table(first: str, headings: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True)
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _label_row(item: LabelFingerprint) -> list[Text]:
    name = str(item.label) if item.name == f"label {item.label}" else f"{item.label} {item.name}"
    cells = [name, str(item.lesion_count), str(item.case_count)]
    if item.volume is None:
        cells += ["–"] * 4
    else:
        volume = item.volume
        figures = (volume.mean_mm3, volume.median_mm3, volume.geometric_mean_mm3, volume.max_mm3)
        cells += [format_volume(value) for value in figures]
    cells.append(f"{item.border_share:.0%}")
    return [Text(cell) for cell in cells]
