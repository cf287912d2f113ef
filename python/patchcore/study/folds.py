"""Cross-validation folds: by patient, so that none is trained on and validated on, and alike in lesion burden."""

from __future__ import annotations

import random
from collections.abc import Sequence

from patchcore.errors import DataError

__all__ = ["make_folds"]


def make_folds(
    patients: Sequence[str], k: int, seed: int = 0, *, burdens: Sequence[float] | None = None
) -> list[list[int]]:
    """Split cases into `k` folds of near-equal size without dividing a patient.

    Patients are shuffled, taken largest first, and each goes to the fold with the fewest cases so far. With `burdens`,
    of patients with as many cases those with the most lesion are taken first, k at a time, in shuffled order: each fold
    then gets its share of every burden.

    Args:
        patients: The patient of each case.
        k: Number of folds, at least 2.
        seed: The same seed and patients give the same folds, in whatever order the cases come.
        burdens: Lesion volume of each case, or any measure of it; a patient's is the sum.

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
    if burdens is not None:
        burden = {patient: sum(burdens[index] for index in indices) for patient, indices in cases.items()}
        shuffled = {patient: number for number, patient in enumerate(order)}
        order.sort(key=lambda patient: (-len(cases[patient]), -burden[patient]))
        blocks = [order[start : start + k] for start in range(0, len(order), k)]
        order = [patient for block in blocks for patient in sorted(block, key=shuffled.__getitem__)]
    folds: list[list[int]] = [[] for _ in range(k)]
    for patient in order:
        smallest = min(range(k), key=lambda fold: (len(folds[fold]), fold))
        folds[smallest] += cases[patient]
    return [sorted(fold) for fold in folds]
