"""Chooses a post-processing from counted cases, and estimates honestly what it gains. Uses NumPy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from patchcore.config.postprocess import Gain, Objective
from patchcore.types import Float64Array, Int64Array

__all__ = [
    "LEAST_PATIENTS",
    "PEAKS",
    "THRESHOLDS",
    "VOLUMES_MM3",
    "CaseCounts",
    "Choice",
    "Components",
    "Rules",
    "TuningCase",
    "choose",
    "nested_counts",
]

THRESHOLDS: Final = (None, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Probabilities above which a voxel is lesion; None: if lesion is the most likely class."""
PEAKS: Final = (0.0, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
"""Highest probabilities that a lesion must reach at least."""
VOLUMES_MM3: Final = (
    0.0, 5.0, 10.0, 20.0, 35.0, 65.0, 100.0, 150.0, 250.0, 350.0, 500.0, 700.0, 1000.0, 1400.0, 2000.0,
)  # fmt: skip
"""Least volumes of a lesion [mm³]; 65 mm³ is a ball of 5 mm."""
RESAMPLES: Final = 2000
LEAST_PATIENTS: Final = 3
"""With fewer patients nothing is kept."""
_MOST_FOLDS: Final = 20


@dataclass(frozen=True, order=True)
class Choice:
    """One way to post-process. Of equally good ones the first in this order is taken: that which changes least."""

    threshold: int = 0
    """Index into :data:`THRESHOLDS`."""
    organ: bool = False
    min_volume_mm3: float = 0.0
    peak: float = 0.0


@dataclass(frozen=True)
class Components:
    """The predicted components of a case at one threshold.

    Attributes:
        voxels: Number of voxels of each component.
        peaks: Its highest probability of a lesion.
        inside: Whether it is connected with the organ.
        hits: Rows (component, true lesion, common voxels); the lesion is −1 if it is below the plan's least volume.
    """

    voxels: tuple[int, ...]
    peaks: tuple[float, ...]
    inside: tuple[bool, ...]
    hits: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class TuningCase:
    """What has to be known of a case in order to score every choice.

    Attributes:
        case_id: The case.
        patient: Its patient.
        voxel_mm3: Volume of a voxel [mm³].
        least_mm3: Smaller components count as no lesion, whatever is chosen: the plan's least volume.
        true_mm3: Volume of each true lesion [mm³].
        true_voxels: Number of voxels of all lesions.
        at: The predicted components at each threshold.
    """

    case_id: str
    patient: str
    voxel_mm3: float
    least_mm3: float
    true_mm3: tuple[float, ...]
    true_voxels: int
    at: tuple[Components, ...]

    def score(self, choice: Choice) -> CaseCounts:
        """Return the counts of the case under a choice."""
        found = self.at[choice.threshold]
        voxels = np.asarray(found.voxels, dtype=np.int64)
        left = voxels * self.voxel_mm3 >= choice.min_volume_mm3
        left &= np.asarray(found.peaks) >= choice.peak
        if choice.organ:
            left &= np.asarray(found.inside, dtype=np.bool_)
        hits = np.asarray(found.hits, dtype=np.int64).reshape(-1, 3)
        size = int(voxels[left].sum()) + self.true_voxels
        # Nothing there and nothing predicted is right: removing false lesions must be worth something.
        dsc = 2 * int(hits[left[hits[:, 0]], 2].sum()) / size if size else 1.0
        # Smaller components count as no lesion, whatever is chosen, but their voxels count in the DSC.
        kept = left & (voxels * self.voxel_mm3 >= self.least_mm3)
        hits = hits[kept[hits[:, 0]]]
        lesions = frozenset(hits[hits[:, 1] >= 0, 1].tolist())
        return CaseCounts(len(self.true_mm3), lesions, int(kept.sum()), len(set(hits[:, 0].tolist())), dsc)


@dataclass(frozen=True)
class CaseCounts:
    """Counts of a case under one choice: lesions, which of them are found, components, true components, and DSC."""

    lesions: int
    found: frozenset[int]
    predicted: int
    true: int
    dsc: float

    def row(self) -> list[float]:
        """Return the values that are summed over cases."""
        return [self.lesions, len(self.found), self.predicted, self.true, self.dsc, 1.0]


@dataclass(frozen=True)
class Rules:
    """How a choice is made.

    Attributes:
        objective: What is maximised.
        may_lose: Share of the found lesions that a choice may lose.
        has_organ: Whether lesions outside the organ may be removed.
        most_mm3: The largest least volume that may be chosen [mm³].
        has_thresholds: Whether thresholds of the probability are tried. They are not combined with the organ: a voxel
            below the threshold becomes organ, which a prediction without it does not show.
    """

    objective: Objective = "lesion-f1"
    may_lose: float = 0.01
    has_organ: bool = False
    most_mm3: float = math.inf
    has_thresholds: bool = False

    def choices(self) -> list[Choice]:
        """Return all choices, that which changes nothing first."""
        organs = (False, True) if self.has_organ else (False,)
        volumes = [volume for volume in VOLUMES_MM3 if volume == 0 or volume <= self.most_mm3]
        found = [Choice(0, organ, volume, peak) for organ in organs for volume in volumes for peak in PEAKS]
        if self.has_thresholds:
            found += [Choice(at, False, volume) for at in range(1, len(THRESHOLDS)) for volume in volumes]
        return sorted(found)

    def values(self, rows: Float64Array) -> Float64Array:
        """Return the objective of sums over cases, (…, values)."""
        lesions, found, predicted, true, dsc, count = np.moveaxis(rows, -1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            if self.objective == "dsc":
                return np.asarray(dsc / count)
            recall = np.where(lesions > 0, found / lesions, 1.0)
            precision = np.where(predicted > 0, true / predicted, 1.0)
            # Nothing found counts as 0, not as undefined.
            total = recall + precision
            return np.where(total > 0, 2 * recall * precision / total, 0.0)

    def best(self, sums: Float64Array) -> Int64Array:
        """Return the number of the best choice, given the sums of all, (…, choices, values); of equals the first."""
        values = self.values(sums)
        found = sums[..., _FOUND]
        least = found[..., :1] - np.floor(self.may_lose * found[..., :1] + 1e-9)
        values = np.where(found < least, -1.0, values)
        best: Int64Array = np.argmax(values >= values.max(-1, keepdims=True) - 1e-12, axis=-1)
        return best


_FOUND: Final = 1
"""Place of the number of found lesions among the values that are summed."""


def choose(cases: Sequence[TuningCase], rules: Rules) -> tuple[Choice, Gain]:
    """Return the best choice for some cases, and the gain that it promises for other patients.

    Args:
        cases: The cases.
        rules: How a choice is made.

    Returns:
        The choice of all cases together, and the nested estimate: each patient is scored with the choice of the others,
        in folds of patients if there are many. Its interval has the 2.5th and 97.5th percentile of the gain over
        samples of patients (seeded); the choices are repeated in each sample, because they are uncertain, too. With
        fewer than two patients it reaches from −1 to 1.
    """
    table = _table(cases, rules)
    patients = sorted({case.patient for case in cases})
    of_patient = np.zeros((len(patients), *table.shape[1:]))
    np.add.at(of_patient, [patients.index(case.patient) for case in cases], table)
    folds = _folds(patients)
    once = np.ones((1, len(patients)))
    before, after = _nested_values(of_patient, folds, once, rules)
    low, high = -1.0, 1.0
    if len(patients) > 1:
        random = np.random.default_rng(0)
        drawn = random.multinomial(len(patients), np.full(len(patients), 1 / len(patients)), size=RESAMPLES)
        without, with_choice = _nested_values(of_patient, folds, drawn.astype(np.float64), rules)
        low, high = np.percentile(with_choice - without, [2.5, 97.5]).tolist()
    gain = Gain(
        before=float(before[0]),
        after=float(after[0]),
        gain=float(after[0] - before[0]),
        low=low,
        high=high,
        patients=len(patients),
    )
    return rules.choices()[int(rules.best(table.sum(0)))], gain


def _nested_values(
    of_patient: Float64Array, folds: Int64Array, weights: Float64Array, rules: Rules
) -> tuple[Float64Array, Float64Array]:
    """Return the objective without and with the nested choice, for samples of patients.

    Args:
        of_patient: Sums of each patient under every choice, (patients, choices, values).
        folds: Fold of each patient.
        weights: How often each patient is in each sample, (samples, patients).
        rules: How a choice is made.
    """
    total = np.einsum("rp,pcv->rcv", weights, of_patient)
    after = np.zeros((len(weights), of_patient.shape[2]))
    for fold in np.unique(folds):
        own = folds == fold
        part = np.einsum("rp,pcv->rcv", weights[:, own], of_patient[own])
        # Where no other patient is in the sample, nothing is changed.
        chosen = np.where(weights[:, ~own].sum(1) > 0, rules.best(total - part), 0)
        after += part[np.arange(len(weights)), chosen]
    return rules.values(total[:, 0]), rules.values(after)


def _table(cases: Sequence[TuningCase], rules: Rules) -> Float64Array:
    """Return the counts of every case under every choice, (cases, choices, values)."""
    choices = rules.choices()
    return np.asarray([[case.score(choice).row() for choice in choices] for case in cases])


def _folds(patients: Sequence[str]) -> Int64Array:
    """Return the fold of each patient: one each, or 20 folds."""
    return np.asarray(np.random.default_rng(0).permutation(len(patients)) % _MOST_FOLDS, dtype=np.int64)


def nested_counts(cases: Sequence[TuningCase], rules: Rules) -> list[CaseCounts]:
    """Return the counts of each case under the choice of the patients in other folds."""
    choices, table = rules.choices(), _table(cases, rules)
    patients = sorted({case.patient for case in cases})
    fold_of = dict(zip(patients, _folds(patients).tolist(), strict=True))
    folds = np.asarray([fold_of[case.patient] for case in cases])
    counts = []
    for case, fold in zip(cases, folds, strict=True):
        others = folds != fold
        number = int(rules.best(table[others].sum(0))) if others.any() else 0
        counts.append(case.score(choices[number]))
    return counts
