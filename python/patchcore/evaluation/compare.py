"""Compares the scores of runs on their common cases, because scores on different cases cannot be compared.

Runs with the same classes are compared by their mean DSC, classes first; runs with different classes by the DSC of the
lesions, which they have in common. If a class is not in the label map of a case, a run that predicts nothing has no DSC
there, and a run that predicts something has 0. So that false positives count in a comparison, the first run then counts
as 1. A case in which no run predicts the class, and none is labelled, is excluded from the class's mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patchcore.errors import StudyError
from patchcore.files import read_json
from patchcore.metrics import MeanEstimate, PairedComparison, compare_pairs, holm, mean_dsc, mean_over_classes
from patchcore.metrics.results import EVALUATION_SCHEMA
from patchcore.runs import list_runs, resolve_run
from patchcore.runs.listing import summarize
from patchcore.runs.seen import Role, worst_role
from patchcore.study import Study
from patchcore.types import Float64Array, PathLike

__all__ = ["Comparison", "RunScore", "compare"]


@dataclass(frozen=True)
class RunScore:
    """Score of one run on the common cases.

    Attributes:
        run_id: Id of the run.
        patch_size: Patch size per canonical axis [voxels]; None if it is not known.
        steps: Optimiser steps of the evaluated checkpoint.
        role: The worst role of a common case in the run, e.g. ``used for selection``.
        mean_dsc: Mean DSC over the common cases, on their own grids; NaN if no case has a DSC.
        n: Number of cases in the mean of the lesions.
        rewarded: Number of these cases without lesion in which the run predicts none, but another run does: they count
            as 1.
        interval: The mean DSC with its bootstrap interval over patients.
        difference: Mean of the paired differences to the first run; NaN for the first run.
        against_first: Label → paired comparison of the class with the first run; empty for the first run.
        adjusted_p: Label → p value of Wilcoxon's test, adjusted for all tests of this comparison (Holm).
        dsc: DSC of the lesions per common case; NaN if the case is excluded.
    """

    run_id: str
    patch_size: tuple[int, ...] | None
    steps: int
    role: str
    mean_dsc: float
    n: int
    rewarded: int
    interval: MeanEstimate
    difference: float
    against_first: Mapping[int, PairedComparison]
    adjusted_p: Mapping[int, float]
    dsc: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """Result of :func:`compare`.

    Attributes:
        case_ids: The cases that all runs were evaluated on, and that none of them has trained on.
        excluded: Excluded cases: only some of the runs were evaluated on them.
        trained: Excluded cases: one of the runs, or an ancestor of it, has trained on them or on their patients.
        classes: Labels of the classes that are compared.
        ball_dsc: Mean DSC of the centre-ball baseline on the common cases.
        scores: One score per run, highest mean DSC first. Differences are relative to the first run given.
    """

    case_ids: tuple[str, ...]
    excluded: tuple[str, ...]
    trained: tuple[str, ...]
    classes: tuple[int, ...]
    ball_dsc: float
    scores: tuple[RunScore, ...]


def compare(study: Study | PathLike, runs: Sequence[PathLike] = ()) -> Comparison:
    """Compare the evaluations of several runs.

    Args:
        study: The study.
        runs: Run ids or folders; default: all evaluated runs, oldest first.

    Returns:
        The scores on the cases that all runs were evaluated on.

    Raises:
        StudyError: A run was not evaluated, there is no evaluated run, the runs have no case in common that none of
            them has trained on, or they segment lesions of different labels.

    Example:
        >>> import patchcore as pc  # doctest: +SKIP
        >>> [score.mean_dsc for score in pc.compare("study/").scores]  # doctest: +SKIP
    """
    study = study if isinstance(study, Study) else Study(study)
    if runs:
        paths = [resolve_run(study.path, str(run)) for run in runs]
    else:
        paths = [run.path for run in reversed(list_runs(study.path)) if _report(study, run.path).exists()]
    if not paths:
        raise StudyError("no run was evaluated yet", path=study.path, remedy=f"run patchcore evaluate {study.path}")
    reports = [_read(study, path) for path in paths]
    lesion_labels = {report["lesion_label"] for report in reports}
    if len(lesion_labels) > 1:
        raise StudyError(
            f"the runs segment lesions of different labels: {', '.join(map(str, sorted(lesion_labels)))}",
            path=study.path,
            remedy="name runs with the same lesion label",
        )
    by_case = [{case["case_id"]: case for case in report["cases"]} for report in reports]
    evaluated = set[str].intersection(*map(set, by_case))
    trained = {name for name in evaluated if any(Role(cases[name]["role"]).is_trained for cases in by_case)}
    common = sorted(evaluated - trained)
    if not common:
        seen = f"; of {len(trained)} common cases, all were used for training by one of them" if trained else ""
        raise StudyError(
            f"the runs have no evaluated case in common{seen}",
            path=study.path,
            remedy="compare runs that validate on the same fold: train them with the same --fold, train.folds and "
            "train.fold_seed",
        )
    kinds = [tuple(sorted(int(label) for label in report["dsc_by_class"])) for report in reports]
    lesion_label = int(lesion_labels.pop())
    classes = kinds[0] if len(set(kinds)) == 1 else (lesion_label,)
    # (runs, cases, classes)
    table = np.array(
        [
            [[_number(cases[name]["dsc_by_class"][str(label)]) for label in classes] for name in common]
            for cases in by_case
        ]
    )
    left_out = np.isnan(table).all(axis=0)
    rewarded = np.isnan(table) & ~left_out
    table = np.where(rewarded, 1.0, table)
    lesion = classes.index(lesion_label)
    patients = [str(by_case[0][name]["patient"]) for name in common]
    paired = [
        {label: compare_pairs(table[number, :, at], table[0, :, at], patients) for at, label in enumerate(classes)}
        for number in range(1, len(paths))
    ]
    adjusted = iter(holm([found.wilcoxon_p for by_class in paired for found in by_class.values()]))
    adjusted_p: list[dict[int, float]] = [{}, *({label: next(adjusted) for label in by_class} for by_class in paired)]
    scores = [
        RunScore(
            run_id=path.name,
            patch_size=summarize(path).patch_size,
            steps=int(reports[number]["checkpoint_step"]),
            role=worst_role(Role(by_case[number][name]["role"]) for name in common),
            mean_dsc=_classes_first(table[number]),
            n=int((~left_out[:, lesion]).sum()),
            rewarded=int(rewarded[number, :, lesion].sum()),
            interval=mean_over_classes(
                {str(label): table[number, :, at] for at, label in enumerate(classes)}, patients, within=(0, 1)
            ),
            difference=math.nan if number == 0 else _classes_first(table[number] - table[0]),
            against_first={} if number == 0 else paired[number - 1],
            adjusted_p=adjusted_p[number],
            dsc=tuple(table[number, :, lesion].tolist()),
        )
        for number, path in enumerate(paths)
    ]
    return Comparison(
        case_ids=tuple(common),
        excluded=tuple(sorted(set[str].union(*map(set, by_case)) - evaluated)),
        trained=tuple(sorted(trained)),
        classes=classes,
        ball_dsc=mean_dsc(_number(by_case[0][name]["ball_dsc"]) for name in common),
        scores=tuple(sorted(scores, key=lambda score: -np.nan_to_num(score.mean_dsc, nan=-1.0))),
    )


def _classes_first(table: Float64Array) -> float:
    """Return the mean over classes of the mean over cases, (cases, classes)."""
    return mean_dsc(mean_dsc(column.tolist()) for column in table.T)


def _report(study: Study, run: Path) -> Path:
    return study.reports_dir / run.name / "evaluation.json"


def _read(study: Study, run: Path) -> Mapping[str, Any]:
    path = _report(study, run)
    remedy = f"run patchcore evaluate {study.path} {run.name}"
    if not path.exists():
        raise StudyError(f"run {run.name} was not evaluated", path=path, remedy=remedy)
    report: dict[str, Any] = read_json(path, schema=EVALUATION_SCHEMA)
    if report["schema_version"] < EVALUATION_SCHEMA:
        raise StudyError(
            f"run {run.name} was evaluated by an older patchcore, which computed the mean DSC differently",
            path=path,
            remedy=remedy,
        )
    return report


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
