"""Cross-validation folds, grouped by patient and balanced in lesion burden."""

from __future__ import annotations

import random
from collections.abc import Sequence

from patchcore.errors import DataError

__all__ = ["make_folds"]


def make_folds(
    patients: Sequence[str], k: int, seed: int = 0, *, burdens: Sequence[float] | None = None
) -> list[list[int]]:
    """Split cases into `k` folds of similar size. All cases of a patient are in the same fold.

    Patients are shuffled and then assigned one by one, those with the most cases first. Each patient goes to the fold
    with the fewest cases so far. With `burdens`, patients with the same number of cases are assigned by decreasing
    burden, in shuffled blocks of k patients. So every fold gets patients with large and with small burdens.

    Args:
        patients: The patient of each case.
        k: Number of folds, at least 2.
        seed: The same seed and patients give the same folds, for any order of the cases.
        burdens: Lesion volume of each case, or any measure of it; the burden of a patient is the sum over the cases.

    Returns:
        The ascending indices of the cases of each fold; every case is in exactly one fold.

    Raises:
        DataError: There are fewer patients than folds, or `k` is below 2.

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
            remedy="use fewer folds, or group patients differently with --patient-regex",
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
