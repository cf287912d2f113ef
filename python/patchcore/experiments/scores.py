"""Puts the results of an experiment side by side: one table of the same cases, seeds and folds for all settings.

A *setting* is one combination of the values that are compared, such as patch size 8; it has a point for each seed and
fold. Settings are compared on the cells (seed, fold) that all of them have finished, and on the cases that none of
their runs, or of their ancestors, has trained on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from patchcore.experiments.points import PATCH_SIZE
from patchcore.experiments.results import LesionResult, PointResult
from patchcore.metrics import MeanEstimate, estimate_mean, mean_over_classes
from patchcore.metrics.regret import Regret, cross_fitted_regret
from patchcore.planning.reasons import count_of
from patchcore.runs.seen import Role
from patchcore.types import BoolArray, Float64Array, IntTriple

__all__ = ["Lesion", "Scores", "Setting", "gather", "settings_of_points"]


@dataclass(frozen=True)
class Setting:
    """One combination of values, and its finished points."""

    label: str
    values: Mapping[str, str]
    patch_size: IntTriple
    points: tuple[PointResult, ...]


@dataclass(frozen=True)
class Lesion:
    """A true lesion with its mean DSC over the seeds, per setting; `found` is the share of the seeds that found it."""

    case_id: str
    number: int
    size_bin: str
    diameter_mm: float
    dsc: tuple[float, ...]
    found: tuple[float, ...]


@dataclass(frozen=True)
class Scores:
    """Scores of several settings on the same cases.

    Attributes:
        settings: The settings.
        cells: (seed, fold) that all settings have finished.
        case_ids: The common cases.
        patients: Patient of each case.
        classes: Labels of the classes.
        by_seed: Seed → DSC, (settings, cases, classes); NaN where a seed has not finished the fold of a case, or where
            a class is neither labelled nor predicted by anybody.
        false_positives: Mean number of false components per case, (settings,).
        lesions: The true lesions of the cases.
        excluded: Notes about what is not compared, as sentences.
    """

    settings: tuple[Setting, ...]
    cells: tuple[tuple[int, int], ...]
    case_ids: tuple[str, ...]
    patients: tuple[str, ...]
    classes: tuple[str, ...]
    by_seed: Mapping[int, Float64Array]
    false_positives: tuple[float, ...]
    lesions: tuple[Lesion, ...]
    excluded: tuple[str, ...]

    @property
    def patient_count(self) -> int:
        """Number of patients."""
        return len(set(self.patients))

    @cached_property
    def dsc(self) -> Float64Array:
        """Mean DSC over the seeds, (settings, cases, classes)."""
        return _mean(np.stack(list(self.by_seed.values())))

    @cached_property
    def case_dsc(self) -> Float64Array:
        """Mean over the classes of the mean over the seeds, (settings, cases)."""
        return _mean(np.moveaxis(self.dsc, 2, 0))

    @cached_property
    def seed_case_dsc(self) -> Float64Array:
        """Mean over the classes, (seeds, settings, cases)."""
        return _mean(np.moveaxis(np.stack(list(self.by_seed.values())), 3, 0))

    @cached_property
    def regrets(self) -> tuple[Regret, ...]:
        """Cross-fitted regret of each setting, as if it had been chosen."""
        return tuple(cross_fitted_regret(self.case_dsc, self.patients, number) for number in range(len(self.settings)))

    @cached_property
    def best(self) -> int:
        """Number of the setting with the highest mean DSC."""
        return int(np.nanargmax([found.mean for found in self.means]))

    @cached_property
    def means(self) -> tuple[MeanEstimate, ...]:
        """Mean DSC of each setting (classes first) with its intervals over patients."""
        return tuple(self._mean_of(number) for number in range(len(self.settings)))

    def mean(self, setting: int) -> MeanEstimate:
        """Return the mean DSC of a setting: see :attr:`means`."""
        return self.means[setting]

    def _mean_of(self, setting: int) -> MeanEstimate:
        table = self.dsc[setting]
        if len(self.classes) == 1:
            return estimate_mean(table[:, 0], self.patients, within=(0, 1))
        by_class = {label: table[:, number] for number, label in enumerate(self.classes)}
        return mean_over_classes(by_class, self.patients, within=(0, 1))

    def class_mean(self, setting: int, number: int) -> MeanEstimate:
        """Return the mean DSC of one class with its intervals over patients."""
        return estimate_mean(self.dsc[setting, :, number], self.patients, within=(0, 1))

    def seed_deviation(self, setting: int) -> float:
        """Return the standard deviation over the seeds of the mean DSC; NaN for one seed."""
        tables = np.stack([table[setting] for table in self.by_seed.values()])
        # Every seed on the same cases; classes first, as in the mean.
        common = np.where(np.isfinite(tables).all(axis=0), tables, math.nan)
        means = _mean(np.moveaxis(_mean(np.moveaxis(common, 1, 0)), 1, 0))
        return float(np.std(means, ddof=1)) if len(tables) > 1 else math.nan


def settings_of_points(results: Iterable[PointResult], *, name_target: bool = False) -> list[Setting]:
    """Group points that differ in seed and fold only, in the order in which they come.

    Args:
        results: The points.
        name_target: Whether labels name the target of a transfer, because there are several.
    """
    groups: dict[tuple[object, ...], list[PointResult]] = {}
    for result in results:
        key = (result.point.study, tuple(sorted(result.point.values.items())), result.point.patch_size)
        groups.setdefault(key, []).append(result)
    return [
        Setting(_label(points[0], name_target), points[0].point.values, points[0].point.patch_size, tuple(points))
        for points in groups.values()
    ]


def gather(settings: Sequence[Setting]) -> Scores | None:
    """Return the scores of settings on their common cases; None if there is no common case."""
    evaluated = [
        {(result.point.seed, result.point.fold): result for result in setting.points if result.cases}
        for setting in settings
    ]
    kept = [number for number, cells in enumerate(evaluated) if cells]
    if not kept:
        return None
    notes = [
        f"{setting.label} has no finished and evaluated training yet"
        for number, setting in enumerate(settings)
        if number not in kept
    ]
    cells = sorted(set.intersection(*(set(evaluated[number]) for number in kept)))
    dropped = len(set.union(*(set(evaluated[number]) for number in kept))) - len(cells)
    if dropped:
        notes.append(
            f"not compared: {count_of(dropped, 'combination')} of seed and fold that not all settings have finished"
        )
    if not cells:
        return None
    chosen = [replace(settings[number], points=tuple(evaluated[number][cell] for cell in cells)) for number in kept]
    results = [[evaluated[number][cell] for cell in cells] for number in kept]
    places = _common_cases(results, notes)
    if not places:
        return None
    first = {case.case_id: case for row in results for result in row for case in result.cases}
    classes = tuple(dict.fromkeys(label for case in first.values() for label in case.dsc))
    by_seed: dict[int, Float64Array] = {}
    was_done: dict[int, BoolArray] = {}
    for seed in dict.fromkeys(seed for seed, _ in cells):
        table = np.full((len(chosen), len(places), len(classes)), math.nan)
        done = np.zeros((len(chosen), len(places)), dtype=bool)
        for number, row in enumerate(results):
            for result in row:
                for case in result.cases if result.point.seed == seed else ():
                    if case.case_id in places:
                        place = places[case.case_id]
                        table[number, place] = [case.dsc.get(label, math.nan) for label in classes]
                        done[number, place] = True
        by_seed[seed], was_done[seed] = table, done
    # Not labelled: who predicts nothing has no DSC there, but counts as right if anybody predicts something.
    somebody = np.any([np.isfinite(table).any(axis=0) for table in by_seed.values()], axis=0)
    rewarded = 0
    for seed, table in by_seed.items():
        right = np.isnan(table) & somebody & was_done[seed][:, :, None]
        rewarded += int(right.sum())
        by_seed[seed] = np.where(right, 1.0, table)
    if not somebody.any():
        return None
    if rewarded:
        notes.append(
            f"{count_of(rewarded, 'score')} of cases without lesion count as 1, because this training predicts none "
            "there and another one does; in cases.csv they are empty"
        )
    return Scores(
        settings=tuple(chosen),
        cells=tuple(cells),
        case_ids=tuple(places),
        patients=tuple(first[case_id].patient for case_id in places),
        classes=classes,
        by_seed=by_seed,
        false_positives=tuple(
            float(np.mean([case.false_positives for result in row for case in result.cases if case.case_id in places]))
            for row in results
        ),
        lesions=_lesions(results, places),
        excluded=tuple(notes),
    )


def _common_cases(results: Sequence[Sequence[PointResult]], notes: list[str]) -> dict[str, int]:
    """Return the cases that all settings were evaluated on and that none has trained on, with their numbers."""
    by_setting = [{case.case_id for result in row for case in result.cases} for row in results]
    trained = {case.case_id for row in results for result in row for case in result.cases if Role(case.role).is_trained}
    common = set.intersection(*by_setting)
    if only_some := set.union(*by_setting) - common:
        notes.append(f"not compared: {count_of(len(only_some), 'case')} that some settings were not evaluated on")
    if seen := common & trained:
        notes.append(f"not compared: {count_of(len(seen), 'case')} that a run or its ancestor has trained on")
    return {case_id: number for number, case_id in enumerate(sorted(common - trained))}


def _lesions(results: Sequence[Sequence[PointResult]], places: Mapping[str, int]) -> tuple[Lesion, ...]:
    found: dict[tuple[str, int], list[list[LesionResult]]] = {}
    for number, row in enumerate(results):
        for result in row:
            for lesion in result.lesions:
                if lesion.case_id in places:
                    of = found.setdefault((lesion.case_id, lesion.lesion), [[] for _ in results])
                    of[number].append(lesion)
    return tuple(
        Lesion(
            case_id=case_id,
            number=number,
            size_bin=of[0][0].size_bin,
            diameter_mm=of[0][0].diameter_mm,
            dsc=tuple(float(np.mean([lesion.dsc for lesion in row])) for row in of),
            found=tuple(float(np.mean([lesion.found for lesion in row])) for row in of),
        )
        for (case_id, number), of in sorted(found.items())
        if all(of)
    )


def _mean(table: Float64Array) -> Float64Array:
    """Return the mean over the first axis without NaN; NaN where there is nothing."""
    known = np.isfinite(table)
    count = known.sum(axis=0)
    total = np.where(known, table, 0).sum(axis=0)
    mean: Float64Array = np.where(count > 0, total / np.maximum(count, 1), math.nan)
    return mean


def _label(result: PointResult, name_target: bool) -> str:
    """Return the name of a setting for people."""
    point = result.point
    edge = str(point.patch_size[0]) if len(set(point.patch_size)) == 1 else " × ".join(map(str, point.patch_size))
    values = dict(point.values)
    if "training" in values:
        kind = {"scratch-both": "scratch, both budgets"}.get(values["training"], values["training"])
        source = f" from {values['source']}" if values.get("source") else ""
        target = f" to {values['target']}" if name_target else ""
        return f"{kind}{source}{target}, patch {edge}"
    parts = [
        f"patch {edge}" if key == PATCH_SIZE else f"{key.rpartition('.')[2].replace('_', ' ')} {value}"
        for key, value in values.items()
    ]
    return ", ".join(parts)
