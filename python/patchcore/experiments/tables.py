"""The tables of a report: every number that it shows, as rows with names, values and intervals.

This file is long because each table of a report is one function here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from patchcore.config import Plan
from patchcore.config.patches import size_text
from patchcore.experiments.equal_cost import MEASURES, best_until, costs_differ, regrets_at_equal, steps_at_equal
from patchcore.experiments.results import PointResult
from patchcore.experiments.scores import Scores, Setting
from patchcore.lesions.size_bins import SIZE_BIN_NAMES
from patchcore.metrics import MeanEstimate, compare_pairs, estimate_mean, holm, mean_dsc
from patchcore.metrics.regret import Regret, seed_fitted_regret
from patchcore.planning.reasons import count_of
from patchcore.views.document import Column, Table

__all__ = [
    "NOT_REPEATABLE",
    "cases_table",
    "cost_table",
    "curves_table",
    "differences_table",
    "dsc_table",
    "equal_cost_table",
    "gains_table",
    "lesions_table",
    "points_table",
    "regret_table",
    "rules_table",
    "sizes_table",
    "worst_table",
]

NOT_REPEATABLE = (
    "run_id", "attempts", "host", "device", "step_s", "hours", "memory_mib", "pareto", "dsc_equal_time",
    "steps_equal_time", "regret_equal_time", "regret_equal_time_low", "regret_equal_time_high",
)  # fmt: skip
"""Columns that differ when the same experiment is run once more; all others are equal byte for byte."""
_WORST = 10
_AT_EQUAL_COST = (
    " At equal FLOP and time: from the best validation before a training had cost as much as the cheapest one, on the "
    "training grid."
)
_CLASSES_OF_A_CASE = " The classes of a case are averaged first here, so that each case has one score."


def _ends(prefix: str, found: MeanEstimate) -> dict[str, Any]:
    """Return a mean with its intervals: over patients, by bootstrap, and by t over cases."""
    return {
        prefix: found.mean,
        f"{prefix}_low": found.patient_low,
        f"{prefix}_high": found.patient_high,
        f"{prefix}_bootstrap_low": found.low,
        f"{prefix}_bootstrap_high": found.high,
        f"{prefix}_t_low": found.t_low,
        f"{prefix}_t_high": found.t_high,
    }


def dsc_table(scores: Scores, name: str = "dsc", marked: int | None = None) -> Table:
    """Return the mean DSC of each setting: whole and per class, with the spread over seeds."""
    rows = []
    for number, setting in enumerate(scores.settings):
        found = scores.mean(number)
        row: dict[str, Any] = {"setting": setting.label, "n": found.n, "patients": found.patients}
        row |= {"seeds": len(scores.by_seed), **_ends("dsc", found), "seed_deviation": scores.seed_deviation(number)}
        if len(scores.classes) > 1:
            for at, label in enumerate(scores.classes):
                row |= _ends(f"dsc_{label}", scores.class_mean(number, at))
        lesions = scores.lesions
        row["lesions"] = len(lesions)
        row["recall"] = float(np.mean([lesion.found[number] for lesion in lesions])) if lesions else math.nan
        row["false_per_case"] = scores.false_positives[number]
        row["converged"] = converged(setting)
        rows.append(row)
    columns = [
        Column("setting", "setting"),
        Column("dsc", "mean DSC [95 %]", ".3f", ("dsc_low", "dsc_high")),
        *(
            Column(f"dsc_{label}", f"label {label}", ".3f", (f"dsc_{label}_low", f"dsc_{label}_high"))
            for label in (scores.classes if len(scores.classes) > 1 else ())
        ),
        Column("seed_deviation", "SD over seeds", ".3f"),
        Column("recall", "lesions found", ".2f"),
        Column("false_per_case", "false per case", ".2f"),
        Column("converged", "converged"),
    ]
    cases, patients = len(scores.case_ids), scores.patient_count
    return Table(
        name,
        f"Mean DSC on {cases} cases of {patients} patients, {count_of(len(scores.by_seed), 'seed')}",
        tuple(columns),
        tuple(rows),
        "DSC on each case's own grid, averaged over seeds, then over cases, then over classes. The interval in "
        "brackets is over patients (Student's t, wider for heavy tails); the CSV also has the bootstrap, and t over "
        "cases.",
        frozenset(() if marked is None else (marked,)),
    )


def converged(setting: Setting) -> str:
    """Return in how many trainings of a setting the DSC had settled."""
    known = [result.converged for result in setting.points if result.converged is not None]
    if not known:
        return "not known"
    return "yes" if all(known) else f"not converged ({known.count(False)} of {len(known)})"


def sizes_table(scores: Scores, name: str = "dsc_by_size") -> Table:
    """Return the mean DSC of lesions by their size: the lesion is the unit, 0 if it was not found."""
    patient_of = dict(zip(scores.case_ids, scores.patients, strict=True))
    rows, columns = [], [Column("setting", "setting")]
    for number, setting in enumerate(scores.settings):
        row: dict[str, Any] = {"setting": setting.label}
        for at, size in enumerate(SIZE_BIN_NAMES):
            of = [lesion for lesion in scores.lesions if lesion.size_bin == size]
            found = estimate_mean(
                [lesion.dsc[number] for lesion in of], [patient_of[lesion.case_id] for lesion in of], within=(0, 1)
            )
            row |= {f"n_{at}": found.n, **_ends(f"dsc_{at}", found)}
            row[f"recall_{at}"] = float(np.mean([lesion.found[number] for lesion in of])) if of else math.nan
        rows.append(row)
    for at, size in enumerate(SIZE_BIN_NAMES):
        count = sum(lesion.size_bin == size for lesion in scores.lesions)
        columns.append(Column(f"dsc_{at}", f"{size} (n = {count})", ".3f", (f"dsc_{at}_low", f"dsc_{at}_high")))
    return Table(
        name,
        "Mean DSC of lesions by equivalent diameter",
        tuple(columns),
        tuple(rows),
        "Each lesion counts once, with 0 if it was not found. It is compared with the components that overlap it.",
    )


def differences_table(
    scores: Scores, pairs: Sequence[tuple[int, int]], name: str = "differences", title: str = "Paired differences"
) -> Table:
    """Return the paired differences of settings, per class; Holm corrects for all tests of the table."""
    rows = []
    for first, second in pairs:
        for at, label in enumerate(scores.classes):
            found = compare_pairs(scores.dsc[first, :, at], scores.dsc[second, :, at], scores.patients)
            row: dict[str, Any] = {
                "comparison": f"{scores.settings[first].label} − {scores.settings[second].label}",
                "class": label,
                "n": found.difference.n,
                "patients": found.difference.patients,
                **_ends("difference", found.difference),
                "wilcoxon_p": found.wilcoxon_p,
                "false_order": found.false_order,
            }
            rows.append(row)
    for row, p in zip(rows, holm([row["wilcoxon_p"] for row in rows]), strict=True):
        row["holm_p"] = p
    columns = [
        Column("comparison", "comparison"),
        *([Column("class", "label")] if len(scores.classes) > 1 else []),
        Column("n", "n"),
        Column("difference", "difference [95 %]", "+.3f", ("difference_low", "difference_high")),
        Column("wilcoxon_p", "Wilcoxon p", ".3g"),
        Column("holm_p", "p, Holm", ".3g"),
        Column("false_order", "P(order is false)", ".2g"),
    ]
    return Table(
        name,
        title,
        tuple(columns),
        tuple(rows),
        "Differences of the same cases, averaged over seeds. Wilcoxon's test uses one value per patient. P(order is "
        "false): probability that the true means are in the opposite order, given these patients (arXiv 2505.04720).",
    )


def regret_table(scores: Scores, chosen: int | None, name: str = "regret") -> Table:
    """Return the cross-fitted regret of each setting, as if it had been chosen."""
    rows = []
    equal = _regrets_at_equal(scores)
    for number, setting in enumerate(scores.settings):
        found = scores.regrets[number]
        row: dict[str, Any] = {
            "setting": setting.label,
            "patch_size": size_text(setting.patch_size),
            "n": found.n,
            "patients": found.patients,
            "regret": found.mean,
            "regret_low": found.low,
            "regret_high": found.high,
            "best_share": found.best_shares[number],
        }
        if len(scores.by_seed) > 1:
            between = seed_fitted_regret(scores.seed_case_dsc, scores.patients, number)
            row |= {"seed_regret": between.mean, "seed_regret_low": between.low, "seed_regret_high": between.high}
        rows.append(row | _equal_cells(equal, number))
    columns = [
        Column("setting", "if this is chosen"),
        Column("regret", "regret in DSC [95 %]", "+.3f", ("regret_low", "regret_high")),
        Column("best_share", "best in … of the divisions", ".0%"),
    ]
    if len(scores.by_seed) > 1:
        columns.append(Column("seed_regret", "regret between seeds", "+.3f", ("seed_regret_low", "seed_regret_high")))
    columns += _equal_columns(equal)
    return Table(
        name,
        "Regret: DSC that is lost by a choice",
        tuple(columns),
        tuple(rows),
        "DSC of the best setting minus DSC of the chosen one. The best is found on half of the patients and scored on "
        "the other half, over 20 divisions in both directions; the interval repeats all of it on samples of patients. "
        "Between seeds: the best is found with one seed and scored with the others, on the same patients."
        + _AT_EQUAL_COST * bool(equal)
        + _CLASSES_OF_A_CASE * (len(scores.classes) > 1),
        frozenset(() if chosen is None else (chosen,)),
    )


def _regrets_at_equal(scores: Scores) -> dict[str, tuple[Regret, ...]]:
    """Return the regrets of all settings at equal FLOP and at equal time, as far as the costs are known and differ."""
    found = {}
    for measure in MEASURES:
        if costs_differ(scores.settings, measure) and (of := regrets_at_equal(scores, measure)):
            found[f"regret_equal_{measure}"] = of
    return found


def _equal_cells(equal: Mapping[str, Sequence[Regret]], number: int | None) -> dict[str, float]:
    """Return the cells of :func:`_equal_columns` for one setting; None: for a size that was not trained."""
    cells: dict[str, float] = {}
    for key, found in equal.items():
        of = (math.nan,) * 3 if number is None else (found[number].mean, found[number].low, found[number].high)
        cells |= dict(zip((key, f"{key}_low", f"{key}_high"), of, strict=True))
    return cells


def _equal_columns(equal: Iterable[str]) -> list[Column]:
    return [
        Column(key, f"at equal {key.rpartition('_')[2].replace('flop', 'FLOP')}", "+.3f", (f"{key}_low", f"{key}_high"))
        for key in equal
    ]


def rules_table(scores: Scores, plan: Plan, name: str = "rules") -> Table:
    """Return what each rule of the plan would have chosen, and the regret of that size."""
    target = plan.target
    sizes = [setting.patch_size for setting in scores.settings]
    rows: list[dict[str, Any]] = []
    equal = _regrets_at_equal(scores)
    for rule in target.rules:
        row: dict[str, Any] = {
            "rule": str(rule.rule),
            "edge": math.prod(rule.edge) ** (1 / 3),
            "patch_size": size_text(rule.patch_size),
        }
        if rule.patch_size in sizes:
            found = scores.regrets[sizes.index(rule.patch_size)]
            row |= {"regret": found.mean, "regret_low": found.low, "regret_high": found.high}
        else:
            row |= {"regret": math.nan, "regret_low": math.nan, "regret_high": math.nan}
        rows.append(row | _equal_cells(equal, sizes.index(rule.patch_size) if rule.patch_size in sizes else None))
    columns = (
        Column("rule", "rule"),
        Column("edge", "p* (voxels)", ".1f"),
        Column("patch_size", "chooses"),
        Column("regret", "regret in DSC [95 %]", "+.3f", ("regret_low", "regret_high")),
        *_equal_columns(equal),
    )
    # A joint plan is no choice of one rule.
    used = [number for number, rule in enumerate(target.rules) if rule.rule == target.rule]
    marked = frozenset(used if len(target.lesion_labels) < 2 else ())
    note = (
        "A size that was not trained has no regret. The rule of the plan is in bold. A size that is learned from these "
        "trainings has a regret of 0 by definition: it is what the others are compared with."
    ) + _AT_EQUAL_COST * bool(equal)
    return Table(name, "What the rules choose", columns, tuple(rows), note, marked)


def cost_table(scores: Scores, name: str = "cost") -> Table:
    """Return DSC, time and memory of each setting, and whether no other one is better in all three."""
    rows: list[dict[str, Any]] = []
    for number, setting in enumerate(scores.settings):
        points = setting.points
        rows.append(
            {
                "setting": setting.label,
                "dsc": scores.mean(number).mean,
                "steps": points[0].steps,
                "step_s": _mean([result.step_s for result in points]),
                "hours": _mean([result.hours for result in points]),
                "memory_mib": _mean([result.memory_mib for result in points]),
                "pflop": points[0].pflop,
                "gflop_per_window": _number(points[0].point.gflop_per_window),
            }
        )
    flexible = any(result.point.patch_sizes for setting in scores.settings for result in setting.points)
    for row in rows:
        row["pareto"] = not any(_dominates(other, row, flexible=flexible) for other in rows)
    columns = (
        Column("setting", "setting"),
        Column("dsc", "mean DSC", ".3f"),
        Column("steps", "steps", ",d"),
        Column("step_s", "s per step", ".3f"),
        Column("hours", "hours", ".2f"),
        Column("memory_mib", "memory (MiB)", ",.0f"),
        Column("pflop", "PFLOP", ".3g"),
        Column("gflop_per_window", "GFLOP per window", ".3g"),
        Column("pareto", "Pareto front"),
    )
    note = (
        "Steps, time, memory and PFLOP are those of the training of all patch sizes together. Pareto front: no other "
        "size has at least its DSC for fewer GFLOP per window."
        if flexible
        else "Time of training steps without validation. Memory: on a GPU that of the training on its fullest one, "
        "together with other processes where the driver does not tell them; on a CPU that of the training's processes. "
        "Pareto front: no other setting has at least its DSC in less time and memory."
    )
    return Table(name, "DSC, time and memory", columns, tuple(rows), note)


def _dominates(other: dict[str, Any], row: dict[str, Any], *, flexible: bool) -> bool:
    costs = ("gflop_per_window",) if flexible else ("hours", "memory_mib")
    pairs = [(other["dsc"], row["dsc"])] + [
        (-other[key], -row[key]) for key in costs if not math.isnan(other[key] + row[key])
    ]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def equal_cost_table(settings: Sequence[Setting], name: str = "equal_cost") -> Table:
    """Return the DSC that the validation curves had reached at equal FLOP and at equal time."""
    rows: list[dict[str, Any]] = [{"setting": setting.label} for setting in settings]
    for measure in MEASURES:
        for row, setting, steps in zip(rows, settings, steps_at_equal(settings, measure), strict=True):
            known = [(one, step) for one, step in zip(setting.points, steps, strict=True) if math.isfinite(step)]
            seen = [(one, best_until(one, step)) for one, step in known]
            row[f"dsc_equal_{measure}"] = _mean([math.nan if at is None else one.curve[at][1] for one, at in seen])
            row[f"steps_equal_{measure}"] = _mean([step for _, step in known])
    columns = (
        Column("setting", "setting"),
        Column("dsc_equal_flop", "DSC at equal FLOP", ".3f"),
        Column("steps_equal_flop", "at step", ",.0f"),
        Column("dsc_equal_time", "DSC at equal time", ".3f"),
        Column("steps_equal_time", "at step", ",.0f"),
    )
    note = (
        "Read from the validation curves of these trainings, on the training grid, where the cheapest setting ends. A "
        "training that was planned for fewer steps would have lowered its learning rate earlier: use --budget flops or "
        "hours to train under equal cost."
    )
    return Table(name, "DSC at equal cost", columns, tuple(rows), note)


def gains_table(scores: Scores, target: str, name: str = "transfer") -> Table:
    """Return what fine-tuning gains over both controls, per source and patch size."""
    index = {
        (s.values["training"], s.values.get("source", ""), s.patch_size): number
        for number, s in enumerate(scores.settings)
    }
    rows = []
    for (kind, source, patch), number in index.items():
        if kind != "fine-tuning":
            continue
        row: dict[str, Any] = {
            "source": source,
            "target": target,
            "patch_size": size_text(patch),
            "dsc": scores.mean(number).mean,
        }
        for control in ("scratch", "scratch-both"):
            other = index.get((control, "", patch))
            key = control.replace("-", "_")
            if other is None:
                continue
            found = compare_pairs(scores.case_dsc[number], scores.case_dsc[other], scores.patients).difference
            row |= _ends(f"gain_{key}", found) | {f"dsc_{key}": scores.mean(other).mean, "n": found.n}
        rows.append(row)
    columns = (
        Column("source", "source"),
        Column("target", "target"),
        Column("patch_size", "patch"),
        Column("dsc", "fine-tuned", ".3f"),
        Column("dsc_scratch", "scratch", ".3f"),
        Column("gain_scratch", "gain [95 %]", "+.3f", ("gain_scratch_low", "gain_scratch_high"), heat=True),
        Column("dsc_scratch_both", "scratch, both budgets", ".3f"),
        Column(
            "gain_scratch_both", "gain [95 %]", "+.3f", ("gain_scratch_both_low", "gain_scratch_both_high"), heat=True
        ),
    )
    note = "Gain: paired difference of the same cases. Only the second one compares equal numbers of steps."
    note += _CLASSES_OF_A_CASE * (len(scores.classes) > 1)
    return Table(name, "From scratch against pre-trained", columns, tuple(rows), note)


def points_table(results: Sequence[PointResult], name: str = "points") -> Table:
    """Return all finished points."""
    rows = []
    for result in results:
        by_class: dict[str, list[float]] = {}
        for case in result.cases:
            for label, value in case.dsc.items():
                by_class.setdefault(label, []).append(value)
        rows.append(
            {
                "point": result.point.point_id,
                **{f"value_{key}": value for key, value in result.point.values.items()},
                "patch_size": size_text(result.point.patch_size),
                "seed": result.point.seed,
                "fold": result.point.fold,
                "steps": result.steps,
                "best_step": result.best_step,
                "dsc": mean_dsc(map(mean_dsc, by_class.values())),
                "n": sum(any(map(math.isfinite, case.dsc.values())) for case in result.cases),
                "rise_at_end": result.rise,
                "converged": result.converged,
                "added_by_extension": result.added or None,
                "problem": result.problem,
                "run_id": result.run_id,
                "attempts": result.attempts,
                "host": result.host,
                "device": result.device,
                "step_s": result.step_s,
                "hours": result.hours,
                "memory_mib": result.memory_mib,
            }
        )
    columns = (
        Column("point", "point"),
        Column("dsc", "mean DSC", ".3f"),
        Column("best_step", "best step"),
        Column("rise_at_end", "rise in the last fifth", "+.3f"),
        Column("hours", "hours", ".2f"),
        Column("attempts", "attempts"),
        Column("run_id", "run"),
    )
    note = (
        "Mean DSC: over the cases with a lesion or a prediction, then over the classes. "
        "A DSC that rises by more than 0.01 in the last fifth of the steps has not converged."
    )
    return Table(name, "Trainings", columns, tuple(rows), note)


def cases_table(results: Sequence[PointResult], name: str = "cases") -> Table:
    """Return the DSC of every case of every point."""
    rows = tuple(
        {
            "point": result.point.point_id,
            "case_id": case.case_id,
            "patient": case.patient,
            "role": case.role,
            "class": label,
            "dsc": value,
            "false_positives": case.false_positives,
        }
        for result in results
        for case in result.cases
        for label, value in case.dsc.items()
    )
    return Table(name, "DSC of every case of every training", (), rows, hidden=True)


def lesions_table(results: Sequence[PointResult], name: str = "lesions") -> Table:
    """Return the DSC of every lesion of every point."""
    rows = tuple(
        {
            "point": result.point.point_id,
            "case_id": lesion.case_id,
            "lesion": lesion.lesion,
            "volume_mm3": lesion.volume_mm3,
            "equivalent_diameter_mm": lesion.diameter_mm,
            "size_bin": lesion.size_bin,
            "dsc": lesion.dsc,
            "found": lesion.found,
        }
        for result in results
        for lesion in result.lesions
    )
    return Table(name, "Every lesion of every training", (), rows, hidden=True)


def curves_table(results: Sequence[PointResult], name: str = "curves") -> Table:
    """Return the validation curve of every point."""
    rows = tuple(
        {"point": result.point.point_id, "step": step, "dsc": dsc} for result in results for step, dsc in result.curve
    )
    return Table(name, "Validation DSC of every training, on the training grid", (), rows, hidden=True)


def worst_table(scores: Scores, best: int, name: str = "worst") -> Table:
    """Return the cases with the lowest DSC in the best setting, with their DSC in all settings."""
    order = np.argsort(np.where(np.isfinite(scores.case_dsc[best]), scores.case_dsc[best], np.inf))[:_WORST]
    rows = [
        {
            "case_id": scores.case_ids[place],
            **{f"dsc_{number}": scores.case_dsc[number, place] for number in range(len(scores.settings))},
        }
        for place in map(int, order)
        if np.isfinite(scores.case_dsc[best, place])
    ]
    columns = (
        Column("case_id", "case"),
        *(Column(f"dsc_{number}", setting.label, ".3f", heat=True) for number, setting in enumerate(scores.settings)),
    )
    return Table(name, f"Cases with the lowest DSC in {scores.settings[best].label}", columns, tuple(rows))


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan
