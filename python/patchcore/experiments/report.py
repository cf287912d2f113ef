"""``report``: what an experiment has found, as a page for people and tables for programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from patchcore.config.patches import size_text
from patchcore.errors import PatchcoreError, RunError
from patchcore.evaluation.evaluate import evaluate
from patchcore.experiments import tables
from patchcore.experiments.explain import explanation
from patchcore.experiments.folder import ExperimentFolder, resolve_experiment
from patchcore.experiments.points import PATCH_SIZE
from patchcore.experiments.protocol import Protocol
from patchcore.experiments.results import OWN_REPORT, PointResult, read_results, report_of
from patchcore.experiments.scores import Scores, Setting, gather, settings_of_points
from patchcore.experiments.status import experiment_status
from patchcore.experiments.verdict import transfer_verdicts, verdicts
from patchcore.files import DISK_ERRORS
from patchcore.types import IntTriple, PathLike
from patchcore.views.document import (
    Bar,
    Block,
    Bullets,
    Column,
    Curve,
    Document,
    Dot,
    Drawing,
    Heading,
    Paragraph,
    Picture,
    Table,
    dot_chart,
    line_chart,
    scatter_chart,
    small_png,
    write_document,
)

__all__ = ["make_document", "read_report", "report", "report_folder"]

_NOTHING = "No case has a DSC in all settings, so nothing can be compared yet."
_PICTURE_BYTES = 300_000
"""A larger picture stays out of the page, which must not grow beyond 1 MB."""


def report(
    experiment: PathLike,
    name: str | None = None,
    *,
    out: PathLike | None = None,
    evaluate_missing: bool = True,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Write the report of an experiment: one HTML page, the same as Markdown, and all tables as CSV and LaTeX.

    Finished points are reported while the others still train.

    Args:
        experiment: Folder of the experiment; with `name`, the folder of its study.
        name: Name of the experiment.
        out: Folder of the report [default: ``report`` in the folder of the experiment].
        evaluate_missing: Whether finished runs that were not evaluated are evaluated first.
        say: Called with a line for the user before a point is evaluated, and if that fails: the report is
            then written without it.

    Returns:
        The HTML page, ``report.html``.

    Raises:
        RunError: There is no such experiment, or none of its points has finished.
        PatchcoreError: A run folder is damaged.
        OSError: A file cannot be read or written.

    Example:
        >>> import patchcore as pc  # doctest: +SKIP
        >>> pc.report("study/", "sweep-patch_size")  # doctest: +SKIP
    """
    folder, document = read_report(experiment, name, evaluate_missing=evaluate_missing, say=say)
    return write_document(document, report_folder(folder, out))


def report_folder(folder: ExperimentFolder, out: PathLike | None) -> Path:
    """Return the folder of a report."""
    return Path(out) if out is not None else folder.path / "report"


def read_report(
    experiment: PathLike,
    name: str | None = None,
    *,
    evaluate_missing: bool = True,
    say: Callable[[str], None] | None = None,
) -> tuple[ExperimentFolder, Document]:
    """Return an experiment and its report, without writing it; arguments and errors as for :func:`report`."""
    folder = ExperimentFolder(experiment) if name is None else resolve_experiment(experiment, name)
    results = read_results(folder)
    if not results:
        raise RunError(
            "no point of the experiment has finished yet",
            path=folder.path,
            remedy=f"watch it with patchcore experiments show {folder.study} {folder.protocol.name}",
        )
    if evaluate_missing and any(result.problem for result in results):
        for result in results:
            if result.problem:
                _evaluate(folder, result, say)
        results = read_results(folder)
    return folder, make_document(folder, results)


def _evaluate(folder: ExperimentFolder, result: PointResult, say: Callable[[str], None] | None) -> None:
    tell = say or (lambda _: None)
    tell(f"evaluating {result.point.point_id}")
    try:
        size = size_text(result.point.patch_size) if result.point.patch_sizes else None
        # An evaluation that a user has made in another way is kept.
        exists = (report_of(folder, result.point, result.run) / "evaluation.json").exists()
        suffix = OWN_REPORT if exists else ""
        evaluate(folder.study_of(result.point), result.run, post=False, patch_size=size, suffix=suffix)
    except (PatchcoreError, OSError) as error:
        if getattr(error, "errno", None) in DISK_ERRORS:
            raise
        tell(f"{result.point.point_id} could not be evaluated: {error}")


def make_document(folder: ExperimentFolder, results: Sequence[PointResult]) -> Document:
    """Return the report of the finished points of an experiment."""
    protocol = folder.protocol
    settings = settings_of_points(results, name_target=len(protocol.over.get("target", ())) > 1)
    blocks: list[Block] = []
    if protocol.kind == "transfer":
        blocks += _transfer(protocol, settings)
    else:
        blocks += _sweep(protocol, settings, folder.study)
    blocks += [Heading("Learning curves"), *_curves(settings)]
    blocks += [Heading("Trainings"), tables.points_table(results)]
    blocks += [tables.cases_table(results), tables.lesions_table(results), tables.curves_table(results)]
    blocks += [Heading("Protocol"), *_protocol(folder, results)]
    finished, total = len({result.run_id for result in results}), len(folder.points)
    what = "Transfer" if protocol.kind == "transfer" else "Flexible sweep" if protocol.flexible else "Sweep"
    lead = f"{what} in the study {folder.study.name}: {finished} of {total} trainings finished"
    return Document(protocol.name, lead, tuple(blocks))


def _sweep(protocol: Protocol, settings: Sequence[Setting], study: Path) -> list[Block]:
    scores = gather(settings)
    if scores is None:
        return [Heading("Result"), Paragraph(_NOTHING)]
    only_sizes = list(protocol.over) == [PATCH_SIZE]
    chosen = _chosen(scores, protocol.plan.patch_size) if only_sizes else None
    blocks: list[Block] = [Heading("Result")]
    blocks += [Paragraph(text, strong=number == 0) for number, text in enumerate(verdicts(scores, protocol, chosen))]
    blocks += [Bullets(scores.excluded)] if scores.excluded else []
    blocks += _scores(scores, chosen)
    if len(scores.settings) > 1:
        reference = chosen if chosen is not None else 0
        pairs = [(number, reference) for number in range(len(scores.settings)) if number != reference]
        table = tables.differences_table(scores, pairs)
        blocks += [Heading("Differences"), _differences_drawing(table, "differences_drawing"), table]
        blocks += [Heading("Regret"), tables.regret_table(scores, chosen)]
        if only_sizes:
            blocks.append(tables.rules_table(scores, protocol.plan))
            results = [result for setting in scores.settings for result in setting.points]
            blocks += explanation(study, scores, results, protocol.plan.target.lesion_label)
    blocks += _cost(scores)
    return [*blocks, *_worst(scores)]


def _transfer(protocol: Protocol, settings: Sequence[Setting]) -> list[Block]:
    blocks: list[Block] = []
    everything: list[Table] = []
    for number, target in enumerate(protocol.over["target"]):
        of = [s for s in settings if s.values["target"] == target and s.values["training"] != "pre-training"]
        scores = gather(of)
        blocks.append(Heading(f"Result on {target}"))
        if scores is None:
            blocks.append(Paragraph(_NOTHING))
            continue
        end = f"_{number + 1}" if len(protocol.over["target"]) > 1 else ""
        gains = tables.gains_table(scores, target, f"transfer{end}")
        everything.append(gains)
        texts = transfer_verdicts(scores, gains)
        blocks += [Paragraph(text, strong=place == 0) for place, text in enumerate(texts)]
        blocks += [Bullets(scores.excluded)] if scores.excluded else []
        blocks += [gains, *_scores(scores, None, end)]
        pairs = [
            (first, second)
            for first, a in enumerate(scores.settings)
            for second, b in enumerate(scores.settings)
            if a.values["training"] == "fine-tuning"
            and b.values["training"].startswith("scratch")
            and a.patch_size == b.patch_size
        ]
        if pairs:
            table = tables.differences_table(scores, pairs, f"differences{end}")
            blocks += [_differences_drawing(table, f"differences_drawing{end}"), table]
        blocks += [*_cost(scores, end), *_worst(scores, end)]
    if len(protocol.over["target"]) > 1 and everything:
        blocks = [Heading("Source × target"), _matrix(everything), *blocks]
    return blocks


def _matrix(gains: Sequence[Table]) -> Table:
    """Return the gains of all pairs over scratch with both budgets: sources down, targets and patch sizes across."""
    cells: dict[str, dict[str, object]] = {}
    columns: dict[str, Column] = {}
    for table in gains:
        for row in table.rows:
            key = f"{row['target']}, patch {row['patch_size']}"
            columns[key] = Column(key, key, "+.3f", heat=True)
            cells.setdefault(row["source"], {"source": row["source"]})[key] = row.get("gain_scratch_both", math.nan)
    return Table(
        "transfer_matrix",
        "Gain of fine-tuning over training from scratch with the steps of both, by source (rows) and target",
        (Column("source", "source"), *columns.values()),
        tuple(cells.values()),
    )


def _chosen(scores: Scores, patch: IntTriple) -> int | None:
    """Return the only setting with the patch size of the plan; None if there is none, or several."""
    found = [number for number, setting in enumerate(scores.settings) if setting.patch_size == patch]
    return found[0] if len(found) == 1 else None


def _scores(scores: Scores, chosen: int | None, end: str = "") -> list[Block]:
    bars = []
    for number, setting in enumerate(scores.settings):
        found = scores.mean(number)
        bars.append(Bar(setting.label, found.mean, found.patient_low, found.patient_high, marked=number == chosen))
    table = tables.dsc_table(scores, f"dsc{end}", chosen)
    drawing = Drawing(f"dsc_drawing{end}", "Mean DSC with 95 % intervals over patients", dot_chart(bars, "mean DSC"),
                      table.name)  # fmt: skip
    return [drawing, table, tables.sizes_table(scores, f"dsc_by_size{end}")]


def _differences_drawing(table: Table, name: str) -> Drawing:
    bars = [
        Bar(
            row["comparison"] + (f", label {row['class']}" if len({r["class"] for r in table.rows}) > 1 else ""),
            row["difference"],
            row["difference_low"],
            row["difference_high"],
        )
        for row in table.rows
    ]
    svg = dot_chart(bars, "difference in DSC", zero=True)
    return Drawing(name, "Paired differences in DSC with 95 % intervals over patients", svg, table.name)


def _cost(scores: Scores, end: str = "") -> list[Block]:
    table = tables.cost_table(scores, f"cost{end}")
    flexible = any(point.point.patch_sizes for setting in scores.settings for point in setting.points)
    # Every size of a flexible network has the training of all of them: what differs is the cost of a prediction.
    if flexible:
        cost, axis = "gflop_per_window", "GFLOP per window"
        title = "Mean DSC against the cost of a prediction; filled: no other setting has at least its DSC at less cost"
    else:
        cost, axis = "hours", "hours of training"
        title = "Mean DSC against time of training; filled: Pareto front of DSC, time and memory"
    dots = [Dot(row["setting"], row[cost], row["dsc"], row["pareto"]) for row in table.rows]
    drawing = Drawing(f"cost_drawing{end}", title, scatter_chart(dots, axis, "mean DSC"), table.name)
    blocks: list[Block] = [Heading(f"Cost{end.replace('_', ' ')}"), drawing, table]
    return blocks if flexible else [*blocks, tables.equal_cost_table(scores.settings, f"equal_cost{end}")]


def _worst(scores: Scores, end: str = "") -> list[Block]:
    best = scores.best
    blocks: list[Block] = [
        Heading(f"Worst cases{end.replace('_', ' ')}"),
        tables.worst_table(scores, best, f"worst{end}"),
    ]
    for result in scores.settings[best].points:
        if result.contours is not None and (png := small_png(result.contours, _PICTURE_BYTES)) is not None:
            title = f"Worst cases of {result.point.point_id}: label (solid) and prediction"
            blocks.append(Picture(f"contours{end}", title, png))
            break
    return blocks


def _curves(settings: Sequence[Setting]) -> list[Block]:
    curves = []
    for setting in settings:
        by_step: dict[int, list[float]] = {}
        for result in setting.points:
            for step, dsc in result.curve:
                if math.isfinite(dsc):
                    by_step.setdefault(step, []).append(dsc)
        # Only steps that all trainings have validated at: else the mean would jump.
        full = {step: values for step, values in sorted(by_step.items()) if len(values) == len(setting.points)}
        if full:
            means = tuple(float(np.mean(values)) for values in full.values())
            curves.append(Curve(setting.label, tuple(map(float, full)), means))
    if not curves:
        return [Paragraph("There is no validation yet.")]
    svg = line_chart(curves, "step", "validation DSC")
    return [Drawing("curves_drawing", "Validation DSC on the training grid, mean over seeds and folds", svg, "curves")]


def _values(folder: ExperimentFolder, key: str) -> list[str]:
    """Return the values of an axis, those of extensions, too."""
    added = (point.values[key] for point in folder.points.values() if key in point.values)
    return list(dict.fromkeys([*folder.protocol.over[key], *added]))


def _budget(folder: ExperimentFolder) -> str:
    protocol = folder.protocol
    if protocol.kind != "transfer":
        return f"equal {protocol.budget}" + (f", {protocol.hours:g} h each" if protocol.hours else "")
    steps: dict[str, set[int]] = {}
    for point in folder.points.values():
        steps.setdefault(point.values["training"], set()).add(point.steps)
    return "steps: " + ", ".join(f"{kind} {' or '.join(map(str, sorted(of)))}" for kind, of in steps.items())


def _protocol(folder: ExperimentFolder, results: Sequence[PointResult]) -> list[Block]:
    protocol, target = folder.protocol, folder.protocol.plan.target
    versions = {f"patchcore {protocol.patchcore}"}
    for result in results:
        named = ((key, result.versions.get(key)) for key in ("patchcore", "torch", "monai", "precision"))
        versions |= {f"{key} {value}" for key, value in named if value is not None}
    facts = {
        "experiment": f"{protocol.name} ({protocol.kind}), created {protocol.created} by {protocol.user}",
        "compared": "; ".join(f"{key}: {', '.join(_values(folder, key))}" for key in protocol.over),
        "budget": _budget(folder),
        "seeds": ", ".join(map(str, sorted({point.seed for point in folder.points.values()}))),
        "folds": ", ".join(map(str, sorted({point.fold for point in folder.points.values()}))),
        "settings of all trainings": " ".join(protocol.settings),
        "plan": f"patch size {size_text(target.patch_size)}, rule {target.rule}, p* {target.ideal_edge:.1f}",
        "window (voxels)": " × ".join(map(str, target.window_size)),
        "spacing (mm)": " × ".join(f"{value:g}" for value in target.spacing),
        "HU range": f"{target.hu_range[0]:g} to {target.hu_range[1]:g}",
        "lesion label": f"{target.lesion_label} ({target.label_name})",
        "fingerprint of the data": protocol.plan.fingerprint_hash,
        "roles of the cases": ", ".join(sorted({case.role for result in results for case in result.cases})),
        "devices": ", ".join(sorted({result.device for result in results if result.device})),
        "versions": ", ".join(sorted(versions)),
    }
    for number, extension in enumerate(folder.extensions, 1):
        seen = (
            f"after {extension.finished} trainings had finished, so after results could be seen"
            if extension.finished
            else "before any training had finished"
        )
        facts[f"extension {number}"] = f"{len(extension.points)} trainings, added {extension.created}, {seen}"
    rows = tuple({"what": key, "value": value} for key, value in facts.items() if value)
    blocks: list[Block] = [Table("protocol", "Protocol", (Column("what", ""), Column("value", "")), rows)]
    waiting = [
        f"{point.point.point_id}: {point.state}" + (f" ({point.reason})" if point.reason else "")
        for point in experiment_status(folder, quick=True).points
        if point.state != "finished"
    ]
    problems = [f"{result.point.point_id}: {result.problem}" for result in results if result.problem]
    if waiting or problems:
        blocks += [Paragraph("Not in this report:"), Bullets((*waiting, *problems))]
    blocks.append(
        Paragraph(
            "The same experiment, run once more with the same threads in deterministic mode, gives the same tables, "
            f"except for this one and for these columns: {', '.join(tables.NOT_REPEATABLE)}."
        )
    )
    return blocks
