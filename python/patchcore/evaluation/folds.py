"""Runs cross-validation: one training per fold, one after the other, and the combined scores of all folds.

Existing runs are found by their configuration and plan. Finished runs are not trained again; stopped runs are resumed.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from patchcore.config import Plan, RunConfig, resolve_config
from patchcore.errors import DataError, PatchcoreError
from patchcore.files import read_json
from patchcore.metrics import mean_dsc
from patchcore.runs import RunState, list_runs, read_cases, whole_view
from patchcore.runs.seen import record_of, trained_by_ancestors
from patchcore.runs.setup import divide_cases, read_split
from patchcore.study import Study
from patchcore.training.launch import create_run, plan_for, run_config
from patchcore.types import PathLike

__all__ = ["FoldRun", "FoldScore", "FoldScores", "check_ancestors", "fold_run", "fold_scores"]


@dataclass(frozen=True)
class FoldRun:
    """The run of a fold.

    Attributes:
        fold: The validation fold.
        path: The run folder.
        state: State of the run; None if the run was created just now and has not been started.
    """

    fold: int
    path: Path
    state: RunState | None


def fold_run(
    study: Study | PathLike,
    fold: int,
    *,
    settings: Sequence[str] = (),
    toml: PathLike | None = None,
    name: str | None = None,
) -> FoldRun:
    """Return the run of a fold: an existing run with this configuration, plan and division of cases, else a new run.

    A run from before the cases of the study changed has other folds, so its scores cannot be combined with those of the
    others.

    Args:
        study: The study.
        fold: The validation fold.
        settings: Settings ``section.key=value``; ``train.fold`` is added.
        toml: A TOML file of settings.
        name: A few words for the name of the run folder; the fold is added.

    Raises:
        PatchcoreError: Same errors as :func:`patchcore.training.launch.create_run`.
    """
    study = study if isinstance(study, Study) else Study(study)
    settings = [*settings, f"train.fold={fold}"]
    config = run_config(study, toml, settings)
    plan = plan_for(study.plan(), config)
    split = divide_cases(study, config)
    for summary in list_runs(study.path):
        if _is_of(summary.path, config, plan) and read_split(summary.path) in (None, split):
            return FoldRun(fold, summary.path, summary.state.state)
    words = f"{name}-fold{fold}" if name else f"fold{fold}"
    return FoldRun(fold, create_run(study, settings=settings, toml=toml, name=words), None)


def _is_of(run: Path, config: RunConfig, plan: Plan) -> bool:
    """Return whether a run has this configuration and plan, and none of its attempts has overrides."""
    try:
        record = read_json(run / "run.json", schema=1)
        # Settings that older runs do not have get their defaults here.
        same = _what_decides(resolve_config(base=record["config"])) == _what_decides(config)
        same = same and Plan.model_validate_json(json.dumps(record["plan"])) == plan
        starts = [read_json(path) for path in (run / "attempts").glob("*/start.json")]
    except (PatchcoreError, ValidationError, OSError, KeyError, TypeError):
        return False
    return same and not any(start.get("overrides") for start in starts)


def _what_decides(config: RunConfig) -> RunConfig:
    """Return the configuration without the memory limit: it changes no result."""
    return config.model_copy(update={"train": config.train.model_copy(update={"prepare_mib": 0})})


def check_ancestors(study: Study | PathLike, *, settings: Sequence[str] = (), toml: PathLike | None = None) -> None:
    """Check that the initial weights were not trained on the cases that a fold validates on.

    Raises:
        DataError: They were, in one of the folds: its score would be too high.
    """
    study = study if isinstance(study, Study) else Study(study)
    folds = run_config(study, toml, settings).train.folds
    for fold in range(folds):
        config = run_config(study, toml, [*settings, f"train.fold={fold}"])
        if not config.init.source:
            return
        leaked = trained_by_ancestors(record_of(study, divide_cases(study, config), config.init.source), study)
        if leaked:
            raise DataError(
                f"--init-from {config.init.source}: these weights were trained on {len(leaked)} of the cases that fold "
                f"{fold} validates on, or on their patients: {', '.join(leaked[:10])}",
                path=study.path,
                remedy="start from weights that have not seen this study, or fine-tune the run of each fold in its own "
                "fold, with --fold K --init-from RUN_OF_FOLD_K",
            )


@dataclass(frozen=True)
class FoldScore:
    """The best validation of a fold.

    Attributes:
        fold: The fold.
        run_id: Id of the fold's run.
        step: Step of the best validation on all cases; None if there is no such validation.
        mean_dsc: Mean DSC of this validation, on the training grid.
        n: Number of cases of this validation.
    """

    fold: int
    run_id: str
    step: int | None
    mean_dsc: float
    n: int


@dataclass(frozen=True)
class FoldScores:
    """Combined scores of the folds.

    Attributes:
        folds: Score of each fold.
        mean_dsc: Mean over the classes of the mean DSC over all cases; each case is scored by the run that validated on
            it.
        n: Number of cases with a DSC.
        deviation: Standard deviation of the folds' means; NaN for fewer than two folds.
    """

    folds: tuple[FoldScore, ...]
    mean_dsc: float
    n: int
    deviation: float


def fold_scores(runs: Sequence[FoldRun]) -> FoldScores:
    """Collect the best validation of each fold.

    These validations were used for selection. Evaluate a held-out test set separately.

    Args:
        runs: The runs of the folds, finished or not.
    """
    scores: list[FoldScore] = []
    by_class: dict[str, list[float]] = {}
    n = 0
    for run in runs:
        best = whole_view(run.path).best_validation
        if best is None or best.subset != "all":
            scores.append(FoldScore(run.fold, run.path.name, None, math.nan, 0))
            continue
        for case in read_cases(run.path, best.validation_id):
            by_label = case.get("dsc_by_class") or {}
            defined = {label: dsc for label, dsc in by_label.items() if dsc is not None}
            n += bool(defined)
            for label, dsc in defined.items():
                by_class.setdefault(label, []).append(float(dsc))
        scores.append(FoldScore(run.fold, run.path.name, best.step, best.dsc_mean, best.n_cases or 0))
    means = [score.mean_dsc for score in scores if not math.isnan(score.mean_dsc)]
    deviation = statistics.stdev(means) if len(means) > 1 else math.nan
    return FoldScores(tuple(scores), mean_dsc(map(mean_dsc, by_class.values())), n, deviation)
