"""Cross-validation folds, grouped by patient so that no patient is trained on and validated on."""

from __future__ import annotations

import random
from collections.abc import Sequence

from patchcore.errors import DataError

__all__ = ["make_folds"]


def make_folds(patients: Sequence[str], k: int, seed: int = 0) -> list[list[int]]:
    """Split cases into `k` folds of near-equal size without dividing a patient.

    Patients are shuffled, taken largest first, and each goes to the fold with the fewest cases so far.

    Args:
        patients: The patient of each case.
        k: Number of folds, at least 2.
        seed: The same seed and patients give the same folds, in whatever order the cases come.

    Returns:
        For each fold the ascending indices of its cases; every case is in exactly one fold.

    Raises:
        DataError: Fewer patients than folds, or `k` below 2.

    Example:
        >>> [len(fold) for fold in make_folds(["a", "a", "b", "c", "d", "e"], 3)]
        [2, 2, 2]
    """
    cases: dict[str, list[int]] = {}
    for index, patient in enumerate(patients):
        cases.setdefault(patient, []).append(index)
    if k < 2:
        raise DataError(f"{k} folds are too few", found=k, expected="at least 2")
    if len(cases) < k:
        raise DataError(
            f"{len(cases)} patient{'' if len(cases) == 1 else 's'} cannot fill {k} folds",
            found=len(cases),
            expected=f"at least {k}",
            remedy="ask for fewer folds, or group patients another way with --patient-regex",
        )
    order = sorted(cases)
    random.Random(f"patchcore-folds-{seed}").shuffle(order)
    order.sort(key=lambda patient: -len(cases[patient]))
    folds: list[list[int]] = [[] for _ in range(k)]
    for patient in order:
        smallest = min(range(k), key=lambda fold: (len(folds[fold]), fold))
        folds[smallest] += cases[patient]
    return [sorted(fold) for fold in folds]
