"""Compares the scores of runs on their common cases, because scores on different cases cannot be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patchcore.errors import StudyError
from patchcore.files import read_json
from patchcore.runs import list_runs, resolve_run
from patchcore.runs.listing import summarize
from patchcore.study import Study
from patchcore.types import PathLike

__all__ = ["Comparison", "RunScore", "compare"]


@dataclass(frozen=True)
class RunScore:
    """Score of one run on the common cases.

    Attributes:
        run_id: Id of the run.
        patch_size: Patch size per canonical axis [voxels]; None if it is not known.
        steps: Optimiser steps of the evaluated checkpoint.
        role: Role of the evaluated cases in the run, e.g. ``used for selection``.
        mean_dsc: Mean DSC over the common cases, on their own grids; NaN if no case has a DSC.
        n: Number of cases in the mean.
        difference: Mean of the paired per-case differences to the first run; NaN for the first run.
        dsc: DSC per common case; NaN if undefined.
    """

    run_id: str
    patch_size: tuple[int, ...] | None
    steps: int
    role: str
    mean_dsc: float
    n: int
    difference: float
    dsc: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """Result of :func:`compare`.

    Attributes:
        case_ids: The cases that all runs were evaluated on.
        excluded: Excluded cases: only some of the runs were evaluated on them.
        ball_dsc: Mean DSC of the centre-ball baseline on the common cases.
        scores: One score per run, highest mean DSC first. Differences are relative to the first run given.
    """

    case_ids: tuple[str, ...]
    excluded: tuple[str, ...]
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
        StudyError: A run was not evaluated, there is no evaluated run, or the runs have no case in common.

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
    sets = [{case["case_id"] for case in report["cases"]} for report in reports]
    common = sorted(set.intersection(*sets))
    if not common:
        raise StudyError(
            "the runs have no evaluated case in common",
            path=study.path,
            remedy="evaluate all runs on the same fold with --fold K",
        )
    balls = {case["case_id"]: _number(case["ball_dsc"]) for case in reports[0]["cases"]}
    scores = [_score(path, report, common) for path, report in zip(paths, reports, strict=True)]
    reference = np.array(scores[0].dsc)
    paired = [score if number == 0 else _with_difference(score, reference) for number, score in enumerate(scores)]
    return Comparison(
        case_ids=tuple(common),
        excluded=tuple(sorted(set.union(*sets).difference(common))),
        ball_dsc=_mean(balls[case_id] for case_id in common),
        scores=tuple(sorted(paired, key=lambda score: -np.nan_to_num(score.mean_dsc, nan=-1.0))),
    )


def _report(study: Study, run: Path) -> Path:
    return study.reports_dir / run.name / "evaluation.json"


def _read(study: Study, run: Path) -> dict[str, Any]:
    path = _report(study, run)
    if not path.exists():
        remedy = f"run patchcore evaluate {study.path} {run.name}"
        raise StudyError(f"run {run.name} was not evaluated", path=path, remedy=remedy)
    report: dict[str, Any] = read_json(path, schema=1)
    return report


def _score(run: Path, report: dict[str, Any], common: Sequence[str]) -> RunScore:
    by_case = {case["case_id"]: _number(case["dsc"]) for case in report["cases"]}
    dsc = tuple(by_case[case_id] for case_id in common)
    return RunScore(
        run_id=run.name,
        patch_size=summarize(run).patch_size,
        steps=int(report["checkpoint_step"]),
        role=str(report["role"]),
        mean_dsc=_mean(dsc),
        n=sum(not math.isnan(value) for value in dsc),
        difference=math.nan,
        dsc=dsc,
    )


def _with_difference(score: RunScore, reference: np.ndarray[Any, Any]) -> RunScore:
    return RunScore(**(vars(score) | {"difference": _mean(np.array(score.dsc) - reference)}))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _mean(values: Any) -> float:
    defined = [float(value) for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
