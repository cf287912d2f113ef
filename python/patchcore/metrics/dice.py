"""Computes the Dice similarity coefficient (DSC) of whole label maps: per case, mean over cases, global. NumPy only.

DSC = 2·|P ∩ L| / (|P| + |L|), with P the voxels predicted as a class and L the voxels labelled as this class. If a case
has neither, its DSC is undefined: it is NaN, excluded from every mean, and counted separately.

Source: Dice, "Measures of the Amount of Ecologic Association Between Species", Ecology 26 (1945).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from patchcore.errors import ConfigError, ShapeMismatchError
from patchcore.types import AnyArray

__all__ = ["ClassDsc", "DscCounts", "DscSummary", "VoxelCounts", "dsc", "mean_dsc"]


@dataclass(frozen=True)
class VoxelCounts:
    """Numbers of voxels of one class, in one case or in several cases.

    Attributes:
        intersection: Number of voxels both predicted and labelled.
        prediction: Number of predicted voxels.
        label: Number of labelled voxels.
    """

    intersection: int = 0
    prediction: int = 0
    label: int = 0

    def __add__(self, other: VoxelCounts) -> VoxelCounts:
        return VoxelCounts(
            self.intersection + other.intersection,
            self.prediction + other.prediction,
            self.label + other.label,
        )

    @property
    def dsc(self) -> float:
        """DSC in [0, 1]; NaN if the class is neither predicted nor labelled."""
        total = self.prediction + self.label
        return 2 * self.intersection / total if total else math.nan

    @property
    def jaccard(self) -> float:
        """Jaccard index (IoU) in [0, 1]; NaN if the class is neither predicted nor labelled."""
        union = self.prediction + self.label - self.intersection
        return self.intersection / union if union else math.nan

    @property
    def recall(self) -> float:
        """Share of the labelled voxels that is predicted; NaN if nothing is labelled."""
        return self.intersection / self.label if self.label else math.nan

    @property
    def precision(self) -> float:
        """Share of the predicted voxels that is labelled; NaN if nothing is predicted."""
        return self.intersection / self.prediction if self.prediction else math.nan

    @property
    def relative_volume_difference(self) -> float:
        """Predicted minus labelled volume, divided by the labelled volume; NaN if nothing is labelled."""
        return (self.prediction - self.label) / self.label if self.label else math.nan


@dataclass(frozen=True)
class ClassDsc:
    """DSC of one class over a cohort.

    Attributes:
        mean: Mean DSC over the cases; NaN if no case has a defined DSC.
        n: Number of cases in the mean.
        undefined: Number of excluded cases, in which the class is neither predicted nor labelled.
        global_dsc: DSC of the voxels of all cases together.
    """

    mean: float
    n: int
    undefined: int
    global_dsc: float


@dataclass(frozen=True)
class DscSummary:
    """DSC of a cohort.

    Attributes:
        classes: Result per class, in the order requested.
        cases: Number of cases.
    """

    classes: Mapping[int, ClassDsc]
    cases: int

    @property
    def mean(self) -> float:
        """Mean over classes of the mean DSC over cases; NaN if no class has a defined DSC."""
        return mean_dsc(c.mean for c in self.classes.values())

    @property
    def global_dsc(self) -> float:
        """Mean over classes of the global DSC; NaN if no class has a defined DSC."""
        return mean_dsc(c.global_dsc for c in self.classes.values())


def mean_dsc(values: Iterable[float]) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none.

    Example:
        >>> mean_dsc([0.5, float("nan"), 1.0])
        0.75
    """
    defined = [v for v in values if not math.isnan(v)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _count(prediction: AnyArray, label: AnyArray, members: Mapping[int, Sequence[int]]) -> dict[int, VoxelCounts]:
    prediction, label = np.asarray(prediction), np.asarray(label)
    if prediction.shape != label.shape:
        raise ShapeMismatchError(
            f"prediction shape {prediction.shape} does not match label shape {label.shape}",
            found=prediction.shape,
            expected=label.shape,
            remedy="resample the prediction to the label's grid first",
        )
    counts = {}
    for value, values in members.items():
        predicted, labelled = _mask(prediction, values), _mask(label, values)
        counts[value] = VoxelCounts(
            int(np.count_nonzero(predicted & labelled)),
            int(np.count_nonzero(predicted)),
            int(np.count_nonzero(labelled)),
        )
    return counts


def _mask(array: AnyArray, values: Sequence[int]) -> AnyArray:
    mask: AnyArray = np.equal(array, values[0])
    for value in values[1:]:
        mask |= array == value
    return mask


def dsc(prediction: AnyArray, label: AnyArray, classes: Sequence[int]) -> dict[int, float]:
    """Return the DSC of each class of one case.

    Args:
        prediction: Label map, any shape, integer or bool (a mask is class 1).
        label: Label map of the same shape.
        classes: The classes to evaluate.

    Returns:
        Class → DSC in [0, 1]; NaN if neither map contains the class.

    Raises:
        ShapeMismatchError: The shapes differ.

    Example:
        >>> dsc(np.array([0, 1, 1]), np.array([1, 1, 1]), (1, 2))
        {1: 0.8, 2: nan}
    """
    return {value: counts.dsc for value, counts in _count(prediction, label, {c: (c,) for c in classes}).items()}


class DscCounts:
    """Counts voxels per case and class. All DSC values of a cohort are computed from these counts.

    A case may be added in parts, slab by slab: the counts of the parts are summed.

    Args:
        classes: The classes to count, at least one.
        members: If a class is a region: class → label values that belong to it. Default: only the value of the class.

    Raises:
        ConfigError: ``classes`` is empty or contains a class twice.

    Example:
        >>> counts = DscCounts((1,))
        >>> counts.add("case_0", np.array([0, 1]), np.array([1, 1]))
        >>> round(counts.summary().mean, 3)
        0.667
    """

    def __init__(self, classes: Sequence[int], members: Mapping[int, Sequence[int]] | None = None) -> None:
        self.classes = tuple(int(c) for c in classes)
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ConfigError(f"classes {self.classes} must be distinct, and at least one is needed")
        self._members = {value: tuple((members or {}).get(value, (value,))) for value in self.classes}
        self._cases: dict[str, dict[int, VoxelCounts]] = {}

    def __len__(self) -> int:
        return len(self._cases)

    def add(self, case_id: str, prediction: AnyArray, label: AnyArray) -> None:
        """Count the voxels of a case, or of a part of a case.

        Args:
            case_id: Id of the case.
            prediction: Label map, any shape.
            label: Label map of the same shape.

        Raises:
            ShapeMismatchError: The shapes differ; nothing is counted.
        """
        try:
            counts = _count(prediction, label, self._members)
        except ShapeMismatchError as error:
            error.case_id = case_id
            raise
        self.add_counts(case_id, counts)

    def add_counts(self, case_id: str, counts: Mapping[int, VoxelCounts]) -> None:
        """Add counts of a case, or of a part of a case, that were made elsewhere.

        Args:
            case_id: Id of the case.
            counts: Class → counts, for every class.
        """
        so_far = self._cases.setdefault(case_id, {c: VoxelCounts() for c in self.classes})
        for value in self.classes:
            so_far[value] += counts[value]

    def merge(self, other: DscCounts) -> None:
        """Add all counts of another object, e.g. from another rank.

        Raises:
            ConfigError: The other object counts other classes.
        """
        if other.classes != self.classes or other._members != self._members:
            raise ConfigError(f"counts of classes {other.classes} cannot be added to counts of classes {self.classes}")
        for case_id, counts in other._cases.items():
            self.add_counts(case_id, counts)

    def counts(self, case_id: str) -> dict[int, VoxelCounts]:
        """Return the counts of a case per class.

        Raises:
            KeyError: The case was never added.
        """
        return dict(self._cases[case_id])

    def per_case(self) -> dict[str, dict[int, float]]:
        """Return the DSC per case and class, cases in the order added."""
        return {
            case_id: {value: counts.dsc for value, counts in by_class.items()}
            for case_id, by_class in self._cases.items()
        }

    def summary(self) -> DscSummary:
        """Return mean DSC over cases, global DSC and numbers of cases, per class."""
        classes = {}
        for value in self.classes:
            counts = [by_class[value] for by_class in self._cases.values()]
            defined = [c.dsc for c in counts if not math.isnan(c.dsc)]
            classes[value] = ClassDsc(
                mean=mean_dsc(defined),
                n=len(defined),
                undefined=len(counts) - len(defined),
                global_dsc=sum(counts, VoxelCounts()).dsc,
            )
        return DscSummary(classes=classes, cases=len(self._cases))
