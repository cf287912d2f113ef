"""HTML views of a study, a fingerprint and a plan for Jupyter: self-contained, for light and dark pages.

All text that may come from a file is escaped. Text uses the colour of the page (``currentColor``); the marks in
drawings have colours that are visible on light and dark backgrounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

import numpy as np

from patchcore.config.plan import Plan, TargetPlan
from patchcore.errors import PatchcoreError
from patchcore.notebook import renders
from patchcore.planning.reasons import format_edges, format_size, format_volume
from patchcore.study.fingerprint import Fingerprint, LabelFingerprint, VolumeSummary
from patchcore.study.study import Study
from patchcore.views.log_scale import log_bins, log_ticks, plain_number

__all__ = ["fingerprint_html", "plan_html", "study_html"]

_BARS, _CANDIDATE, _IDEAL = "#6b9bd2", "#4a86c8", "#d9534f"
_LISTED = 20
_STYLE = """<style>
.patchcore {color: inherit; max-width: 60em; line-height: 1.4; overflow-x: auto}
.patchcore table {border-collapse: collapse; margin: .4em 0 1em 0; font-size: .9em; color: inherit; background: none}
.patchcore tr, .patchcore tr:nth-child(even) {background: none}
.patchcore th, .patchcore td {padding: .15em .55em; text-align: right; border: 0; white-space: nowrap; color: inherit}
.patchcore th:first-child, .patchcore td:first-child {text-align: left; padding-left: 0}
.patchcore thead th {border-bottom: 1px solid currentColor; font-weight: 600}
.patchcore tr.chosen td {font-weight: 700}
.patchcore h3 {margin: .2em 0 .3em 0; color: inherit}
.patchcore p {margin: .3em 0; color: inherit}
.patchcore svg {max-width: 100%; height: auto; display: block}
.patchcore svg text {fill: currentColor; font: 11px sans-serif}
</style>"""


@renders(Fingerprint)
def fingerprint_html(fingerprint: Fingerprint) -> str:
    """Return the tables of a fingerprint and a drawing of its lesion volumes as HTML."""
    f = fingerprint
    counts = [(f.case_count, "accepted"), (f.test_count, "kept for testing"), (f.held_count, "held")]
    counts.append((f.quarantined_count, "quarantined"))
    cases = ", ".join(f"{n} {word}" for n, word in counts if n or word == "accepted")
    parts = [
        f"<h3>{escape(f.dataset)}</h3>",
        f"<p>{escape(f.layout)}: {escape(f.layout_reason)}<br/>Cases: {cases}; patients: {f.patient_count} "
        f"({escape(f.grouping)})<br/>{f.connectivity}-connected components of at least {f.min_volume_mm3:g} mm³</p>",
    ]
    shown = sorted(f.labels, key=lambda item: (item.label != f.lesion_label, item.label))
    if shown:
        heads = ("Label", "Lesions", "Cases", "Patients", "Mean", "Median", "Geo. mean", "Largest", "At border")
        parts.append(_table(heads, (_label_row(item) for item in shown[:_LISTED])))
        if len(shown) > _LISTED:
            parts.append(f"<p>and {len(shown) - _LISTED} more labels</p>")
    target = None if f.lesion_label is None else f.label(f.lesion_label)
    if target is not None and target.volume is not None:
        volumes = [volume for case in f.cases for volume in case.volumes_mm3(target.label)]
        parts.append(f"<p>Volumes of {len(volumes)} lesions, {escape(target.name)}</p>{_histogram(volumes)}")
        parts.append(_spread_table(target))
    if f.spacing is not None and f.shape is not None:
        rows = []
        for name, axes, digits in (("Spacing (mm)", f.spacing, 3), ("Shape (voxels)", f.shape, 4)):
            low, high = (axes.percentiles.get(p, edge) for p, edge in (("5", axes.min), ("95", axes.max)))
            for place, axis in enumerate("xyz"):
                figures = (axes.min, low, axes.median, high, axes.max)
                rows.append([f"{name} {axis}", *(f"{values[place]:.{digits}g}" for values in figures)])
        parts.append(_table(("Canonical axes", "Min", "5 %", "Median", "95 %", "Max"), rows))
    if f.hu is not None:
        rows = [
            [
                name,
                *(f"{hu.percentiles[p]:.0f}" for p in ("0.5", "5", "50", "95", "99.5")),
                f"{hu.mean:.0f} ± {hu.std:.0f}",
            ]
            for name, hu in (("in lesions", f.hu.within), (f"within {f.hu.dilation_mm:g} mm", f.hu.around))
        ]
        parts.append(_table(("HU", "0.5 %", "5 %", "Median", "95 %", "99.5 %", "Mean"), rows))
    if f.segments_note:
        parts.append(f"<p>{escape(f.segments_note)}</p>")
    return _wrap(parts)


@renders(Plan)
def plan_html(plan: Plan) -> str:
    """Return patch size, reasons, candidates and rules of every target as HTML."""
    parts: list[str] = []
    for target in plan.targets:
        parts += _target(target)
    return _wrap(parts)


@renders(Study)
def study_html(study: Study) -> str:
    """Return the path of a study, and its fingerprint and plan if they exist, as HTML.

    If a part cannot be read, for example an invalid plan, its error message is shown instead of raised.
    """
    where = f"<p>Study {escape(str(study.path))}<br/>Data set {escape(str(study.dataset_root))}</p>"
    parts = [_wrap([where])]
    views: tuple[Callable[[], str], ...] = (
        lambda: fingerprint_html(study.fingerprint()),
        lambda: plan_html(study.plan()),
    )
    for view in views:
        try:
            parts.append(view())
        except (PatchcoreError, OSError) as error:
            parts.append(_wrap([f"<p>{escape(str(error))}</p>"]))
    return "".join(parts)


def _target(target: TargetPlan) -> list[str]:
    low, high = target.hu_range
    parts = [
        f"<h3>Patch size {format_size(target.patch_size)} voxels</h3>",
        f"<p>{target.lesion_count} lesions of label {target.lesion_label} ({escape(target.label_name)}) in "
        f"{target.patient_count} patients; mean {format_volume(target.mean_volume_mm3)}, "
        f"median {format_volume(target.median_volume_mm3)}<br/>"
        f"Spacing {format_size(target.spacing)} mm; window {format_size(target.window_size)} voxels; "
        f"HU {low:g} to {high:g}</p>",
        f"<p>{escape(target.reason)}</p>",
    ]
    if target.warnings:
        items = "".join(f"<li>{escape(text)}</li>" for text in target.warnings)
        parts.append(f"<p><b>Warnings</b></p><ul>{items}</ul>")
    parts.append(_ladder(target))
    rows = [
        [
            f"{'→ ' if c.chosen else ''}{format_size(c.patch_size)}", format_volume(c.volume_mm3), f"{c.tokens:,}",
            f"{c.attention_gflop:,.3g}", f"{c.attention_share:.1%}", f"{c.smaller_lesions_share:.0%}",
        ]
        for c in target.candidates
    ]  # fmt: skip
    heads = ("Candidate", "Volume", "Tokens", "Attention (GFLOP)", "of network", "Smaller lesions")
    parts.append(_table(heads, rows, chosen=[c.chosen for c in target.candidates]))
    rows = [
        [
            str(r.rule),
            "–" if r.volume_mm3 is None else format_volume(r.volume_mm3),
            format_edges(r.edge),
            format_size(r.patch_size),
        ]
        for r in target.rules
    ]
    parts.append(
        _table(("Rule", "Volume", "p* (voxels)", "Patch size"), rows, [r.rule == target.rule for r in target.rules])
    )
    rows = []
    for ideal in target.ideal_edges:
        where = "each case's own spacing" if ideal.spacing is None else f"{format_size(ideal.spacing)} mm"
        interval = "–" if ideal.interval is None else f"{ideal.interval[0]:.1f} to {ideal.interval[1]:.1f}"
        rows.append([where, format_edges(ideal.edge), interval])
    parts.append(_table(("p* at", "Voxels", "95 % interval"), rows))
    return parts


def _label_row(item: LabelFingerprint) -> list[str]:
    name = str(item.label) if item.name == f"label {item.label}" else f"{item.label} {item.name}"
    volume = item.volume
    cells = [name, f"{item.lesion_count:,}", str(item.case_count), str(item.patient_count)]
    if volume is None:
        cells += ["–"] * 4
    else:
        figures = (volume.mean_mm3, volume.median_mm3, volume.geometric_mean_mm3, volume.max_mm3)
        cells += [format_volume(value) for value in figures]
    return [*cells, f"{item.border_share:.0%}"]


def _spread_table(target: LabelFingerprint) -> str:
    """Return the distributions per lesion, case and patient. Only cases and patients with a lesion are counted."""
    rows = []
    if target.volume is not None:
        rows.append(_spread("volume per lesion", target.volume))
    for name, burden in (("case", target.burden_per_case), ("patient", target.burden_per_patient)):
        if burden is not None:
            of = burden.lesions
            counts = (of.mean, *(of.percentiles[p] for p in ("5", "25")), of.median, of.percentiles["75"])
            rows.append(_spread(f"volume per {name}", burden.volume))
            rows.append([f"lesions per {name}", *(f"{n:.3g}" for n in (*counts, of.percentiles["95"], of.max))])
    heads = ("Distribution (only with a lesion)", "Mean", "5 %", "25 %", "Median", "75 %", "95 %", "Largest")
    return _table(heads, rows)


def _spread(name: str, of: VolumeSummary) -> list[str]:
    low, first, third, high = (of.percentiles_mm3.get(p, math.nan) for p in ("5", "25", "75", "95"))
    values = (of.mean_mm3, low, first, of.median_mm3, third, high, of.max_mm3)
    return [name, *(format_volume(value) for value in values)]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], chosen: Sequence[bool] = ()) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = []
    for place, row in enumerate(rows):
        mark = ' class="chosen"' if place < len(chosen) and chosen[place] else ""
        body.append(f"<tr{mark}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _histogram(volumes_mm3: Sequence[float]) -> str:
    """Draw lesion volumes on a log axis in mL."""
    volumes = np.asarray(volumes_mm3, dtype=np.float64) / 1000
    edges = log_bins(volumes)
    counts, _ = np.histogram(volumes, bins=edges)
    drawing = _Drawing(float(edges[0]), float(edges[-1]), height=170)
    most = int(counts.max())
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if count:
            x, tall = drawing.x(float(low)), 110 * count / most
            tip = f"{plain_number(float(f'{low:.2g}'))}–{plain_number(float(f'{high:.2g}'))} mL: {count}"
            drawing.add(
                f'<rect x="{x + 0.5:.1f}" y="{drawing.floor - tall:.1f}" width="{drawing.x(float(high)) - x - 1:.1f}" '
                f'height="{tall:.1f}" fill="{_BARS}"><title>{tip}</title></rect>'
            )
    drawing.text(4, drawing.floor - 106, str(most), "start")
    return drawing.finish("lesion volume (mL)")


def _ladder(target: TargetPlan) -> str:
    """Draw the edges of the candidates and p* of every rule on one log axis in voxels."""
    candidates = [(math.prod(c.patch_size) ** (1 / 3), format_size(c.patch_size), c.chosen) for c in target.candidates]
    rules = [(math.prod(r.edge) ** (1 / 3), str(r.rule), r.rule == target.rule) for r in target.rules]
    shown = [edge for edge, *_ in (*candidates, *rules)]
    drawing = _Drawing(min(shown) / 1.25, max(shown) * 1.25, height=84 + 17 * len(rules))
    for edge, name, chosen in candidates:
        x = drawing.x(edge)
        drawing.add(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="22" y2="{drawing.floor}" stroke="{_CANDIDATE}" '
            f'stroke-width="{2.5 if chosen else 1}" stroke-dasharray="4 3"/>'
        )
        drawing.text(x, 16, name, "middle", bold=chosen)
    for place, (edge, name, chosen) in enumerate(rules):
        x, y = drawing.x(edge), 36 + 17 * place
        drawing.add(f'<circle cx="{x:.1f}" cy="{y}" r="{5 if chosen else 3.5}" fill="{_IDEAL}"/>')
        left = x > drawing.width / 2
        drawing.text(x - 9 if left else x + 9, y + 4, f"{name} {edge:.1f}", "end" if left else "start", bold=chosen)
    return drawing.finish("edge (voxels): dashed lines are candidates, dots are p* of each rule")


class _Drawing:
    """An SVG drawing with a log axis at the bottom."""

    width = 640

    def __init__(self, low: float, high: float, *, height: int) -> None:
        self.low, self.high, self.height, self.floor = low, high, height, height - 38
        self.marks: list[str] = []

    def x(self, value: float) -> float:
        """Return the horizontal position of a value."""
        return 30 + (self.width - 45) * math.log(value / self.low) / math.log(self.high / self.low)

    def add(self, mark: str) -> None:
        """Add an SVG element."""
        self.marks.append(mark)

    def text(self, x: float, y: float, text: str, anchor: str, *, bold: bool = False) -> None:
        """Add text in the colour of the page."""
        weight = ' font-weight="bold" style="font-weight:bold"' if bold else ""
        self.add(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor"{weight}>{escape(text)}</text>'
        )

    def finish(self, title: str) -> str:
        """Draw the axis and return the SVG."""
        major, minor = log_ticks(self.low, self.high)
        self.add(f'<line x1="30" x2="{self.width - 15}" y1="{self.floor}" y2="{self.floor}" stroke="currentColor"/>')
        for values, length in ((major, 6), (minor, 3)):
            steps = "".join(f"M{self.x(value):.1f} {self.floor}v{length}" for value in values)
            self.add(f'<path d="{steps}" stroke="currentColor"/>')
        for value in major:
            self.text(self.x(value), self.floor + 18, plain_number(value), "middle")
        self.text(self.width / 2, self.height - 4, title, "middle")
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}" width="{self.width}" '
            f'height="{self.height}" viewBox="0 0 {self.width} {self.height}" font-family="sans-serif" font-size="11">'
            f"{''.join(self.marks)}</svg>"
        )


def _wrap(parts: Iterable[str]) -> str:
    return f'{_STYLE}<div class="patchcore">{"".join(parts)}</div>'
