"""What trainings of equal length had reached at equal cost: read from their validations.

The cheapest training sets the limit: what another one had reached before it had cost as much. Its learning rate had not
been lowered yet, so this is less than a training that was planned for fewer steps would have reached.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from patchcore.experiments.results import PointResult
from patchcore.experiments.scores import Scores, Setting
from patchcore.metrics.regret import Regret, cross_fitted_regret
from patchcore.runs import read_cases
from patchcore.runs.values import as_number

__all__ = ["MEASURES", "Measure", "best_until", "costs_differ", "regrets_at_equal", "steps_at_equal"]

Measure = Literal["flop", "time"]
MEASURES: Mapping[Measure, Callable[[PointResult], float]] = {
    "flop": lambda result: result.pflop,
    "time": lambda result: result.hours,
}
"""Name → cost of a whole training."""


_EQUAL = 1.01
"""Costs that differ by at most this factor count as equal, because numbers of steps are rounded."""


def steps_at_equal(settings: Sequence[Setting], measure: Measure) -> list[list[float]]:
    """Return the step at which each training had cost as much as the cheapest one; NaN where a cost is not known.

    If a training cost at most 1 % more, it is its last step.

    Returns:
        One list per setting, one number per training.
    """
    cost = MEASURES[measure]
    known = [value for setting in settings for one in setting.points if math.isfinite(value := cost(one)) and value > 0]
    least = min(known, default=math.nan)

    def limit(one: PointResult) -> float:
        share = least / (cost(one) or math.nan)
        return one.steps if share * _EQUAL >= 1 else one.steps * share

    return [[limit(one) for one in setting.points] for setting in settings]


def costs_differ(settings: Sequence[Setting], measure: Measure) -> bool:
    """Return whether a training had cost more than the cheapest one, as far as that is known."""
    limits = zip(settings, steps_at_equal(settings, measure), strict=True)
    return any(step < one.steps for setting, row in limits for one, step in zip(setting.points, row, strict=True))


def best_until(result: PointResult, step: float) -> int | None:
    """Return the number of the best validation up to a step; None if there is none."""
    seen = [(dsc, -number) for number, (at, dsc) in enumerate(result.curve) if at <= step + 0.5 and math.isfinite(dsc)]
    return -max(seen)[1] if seen else None


def regrets_at_equal(scores: Scores, measure: Measure) -> tuple[Regret, ...] | None:
    """Return the cross-fitted regret of each setting at equal cost, as if it had been chosen.

    The scores are the DSC of the cases in the best validation before the limit, on the training grid.

    Returns:
        One regret per setting; None if a setting has no such validation, or if its cost is not known.
    """
    found = [
        [_cases(result, step) for result, step in zip(setting.points, steps, strict=True)]
        for setting, steps in zip(scores.settings, steps_at_equal(scores.settings, measure), strict=True)
    ]
    # As in the other tables: who predicts nothing where nothing is has no DSC, and is right if anybody predicts some.
    defined = {case_id for row in found for cases in row for case_id, dsc in cases.items() if math.isfinite(dsc)}
    table = np.full((len(found), len(scores.case_ids)), math.nan)
    for number, row in enumerate(found):
        for place, case_id in enumerate(scores.case_ids):
            values = [cases[case_id] for cases in row if case_id in cases] if case_id in defined else []
            if values:
                table[number, place] = np.mean([dsc if math.isfinite(dsc) else 1.0 for dsc in values])
        if not np.isfinite(table[number]).any():
            return None
    return tuple(cross_fitted_regret(table, scores.patients, number) for number in range(len(table)))


def _cases(result: PointResult, step: float) -> dict[str, float]:
    """Return the DSC of the cases in the best validation of a training up to a step; NaN where it is not defined."""
    number = None if math.isnan(step) else best_until(result, step)
    if number is None or number >= len(result.validation_ids):
        return {}
    try:
        records = read_cases(result.run, result.validation_ids[number])
    except FileNotFoundError:
        return {}
    values = {str(record["case_id"]): as_number(record.get("dsc")) for record in records}
    return {case_id: math.nan if dsc is None else dsc for case_id, dsc in values.items()}
