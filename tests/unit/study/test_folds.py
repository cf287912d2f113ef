"""Folds: every case once, patients kept together, balanced sizes, reproducible by seed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchcore.errors import DataError
from patchcore.study.folds import make_folds

cohorts = st.lists(st.integers(0, 30).map(str), min_size=5, max_size=80)


@settings(deadline=None)
@given(cohorts, st.integers(2, 5), st.integers(0, 3))
def test_a_patient_is_in_one_fold_and_every_case_in_exactly_one(patients: list[str], k: int, seed: int) -> None:
    if len(set(patients)) < k:
        with pytest.raises(DataError):
            make_folds(patients, k, seed)
        return
    folds = make_folds(patients, k, seed)
    assert sorted(index for fold in folds for index in fold) == list(range(len(patients)))
    homes: dict[str, set[int]] = {}
    for number, fold in enumerate(folds):
        for index in fold:
            homes.setdefault(patients[index], set()).add(number)
    assert all(len(home) == 1 for home in homes.values())
    # Large patients go first, into the smallest fold: sizes differ by at most the largest patient.
    sizes = [len(fold) for fold in folds]
    assert max(sizes) - min(sizes) <= max(patients.count(patient) for patient in patients)


def test_the_seed_decides_and_numpy_and_random_state_do_not() -> None:
    patients = [f"p{i}" for i in range(40)]
    random.seed(1)
    first = make_folds(patients, 5, 0)
    random.seed(2)
    assert make_folds(patients, 5, 0) == first
    assert make_folds(patients, 5, 1) != first


def test_the_order_of_cases_does_not_matter() -> None:
    patients = [f"p{i % 13}" for i in range(40)]
    mixed = list(range(40))
    random.Random(3).shuffle(mixed)
    straight = [{patients[i] for i in fold} for fold in make_folds(patients, 4, 7)]
    shuffled = [patients[i] for i in mixed]
    assert [{shuffled[i] for i in fold} for fold in make_folds(shuffled, 4, 7)] == straight


@pytest.mark.parametrize(("patients", "k"), [(["a", "a", "b"], 3), (["a", "b"], 1), ([], 2)])
def test_impossible_folds_are_refused(patients: list[str], k: int) -> None:
    with pytest.raises(DataError):
        make_folds(patients, k)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=10, max_size=60), st.integers(2, 5), st.integers(0, 3))
def test_every_fold_gets_its_share_of_every_burden(burdens: list[float], k: int, seed: int) -> None:
    patients = [f"p{number}" for number in range(len(burdens))]
    folds = make_folds(patients, k, seed, burdens=burdens)
    assert sorted(index for fold in folds for index in fold) == list(range(len(patients)))
    ranked = sorted(range(len(burdens)), key=lambda index: -burdens[index])
    # Of every k patients in the order of their burden, each fold gets one.
    for start in range(0, len(ranked) - k + 1, k):
        values = sorted(burdens[index] for index in ranked[start : start + k])
        if len({burdens[i] for i in ranked}) == len(ranked):
            homes = [next(n for n, fold in enumerate(folds) if index in fold) for index in ranked[start : start + k]]
            assert sorted(homes) == list(range(k)), values


def test_the_seed_still_decides_among_alike_burdens() -> None:
    patients, burdens = [f"p{i}" for i in range(40)], [float(i) for i in range(40)]
    first = make_folds(patients, 5, 0, burdens=burdens)
    assert make_folds(patients, 5, 0, burdens=burdens) == first
    assert make_folds(patients, 5, 1, burdens=burdens) != first


def test_large_patients_are_placed_first() -> None:
    # Placed last, the patient of three cases would make folds of 5 and 2.
    for seed in range(30):
        sizes = sorted(map(len, make_folds(["a", "b", "c", "d", "e", "e", "e"], 2, seed)))
        assert sizes == [3, 4]


@pytest.mark.parametrize("seed", range(12))
def test_patients_with_many_cases_go_first_so_that_folds_are_equal(seed: int) -> None:
    patients = [*["large"] * 6, *(f"p{number}" for number in range(6))]
    assert [len(fold) for fold in make_folds(patients, 2, seed)] == [6, 6]
