"""Planning against slow references, and invariances that hold for every rule."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from patchcore.planning import CaseSample, LesionSample, cohort_of, nearest_candidate, plan_from_samples
from patchcore.planning.bootstrap import bootstrap_edges
from patchcore.planning.rules import choose_patch_size, ideal_edges
from patchcore.types import Rule

volume = st.floats(1.0, 1e7)
edge = st.floats(0.3, 8.0)
triple = st.tuples(edge, edge, edge)


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[list[CaseSample], list[LesionSample]]:
    cases, lesions = [], []
    for i in range(draw(st.integers(1, 5))):
        shape = draw(st.tuples(*[st.integers(1, 400)] * 3))
        cases.append(CaseSample(f"c{i}", f"p{draw(st.integers(0, 2))}", draw(triple), shape))
        for _ in range(draw(st.integers(0 if i else 1, 4))):
            extent = draw(st.tuples(*[st.floats(0.5, 300.0)] * 3))
            lesions.append(LesionSample(f"c{i}", 1, draw(volume), extent))
    return cases, lesions


FORMULAS = [rule for rule in Rule if rule is not Rule.LEARNED]


def slow_edge(rule: Rule, voxels: list[float], extents: list[tuple[float, ...]]) -> float:
    if rule is Rule.EXTENT:
        return math.prod(sum(e[a] for e in extents) / len(extents) for a in range(3)) ** (1 / 3)
    ordered, n = sorted(voxels), len(voxels)
    average = {
        Rule.MEAN_VOLUME: sum(voxels) / n,
        Rule.MEAN_VOLUME_MM: sum(voxels) / n,
        Rule.MEDIAN: (ordered[(n - 1) // 2] + ordered[n // 2]) / 2,
        Rule.GEOMETRIC_MEAN: math.exp(sum(map(math.log, voxels)) / n),
    }[rule]
    return average ** (1 / 3)


@given(cohorts(), st.sampled_from(FORMULAS), triple, st.integers(0, 2**32))
def test_bootstrap_equals_resampling_one_by_one(
    sample: tuple[list[CaseSample], list[LesionSample]],
    rule: Rule,
    spacing: tuple[float, float, float],
    seed: int,
) -> None:
    cohort = cohort_of(*sample, label=1)
    fast = bootstrap_edges(rule, cohort, spacing, resamples=20, seed=seed)
    draws = np.random.default_rng(seed).integers(0, cohort.patient_count, size=(20, cohort.patient_count))
    voxels, extents = cohort.voxels(spacing), cohort.extents(spacing)
    for value, patients in zip(fast, draws, strict=True):
        lesions = [i for p in patients for i in np.flatnonzero(cohort.patient == p)]
        slow = slow_edge(rule, [float(voxels[i]) for i in lesions], [tuple(extents[i]) for i in lesions])
        assert math.isclose(value, slow, rel_tol=1e-9)


@given(st.floats(0.5, 500), st.lists(st.integers(2, 64), min_size=1, max_size=6, unique=True))
def test_nearest_candidate_is_nearest_by_factor(ideal: float, candidates: list[int]) -> None:
    chosen = nearest_candidate(ideal, candidates)
    assert chosen in candidates
    factor = max(chosen / ideal, ideal / chosen)
    assert all(max(p / ideal, ideal / p) >= factor * (1 - 1e-9) for p in candidates)


@given(cohorts(), st.sampled_from(FORMULAS), triple, st.floats(0.25, 4))
def test_edges_scale_with_the_world(
    sample: tuple[list[CaseSample], list[LesionSample]],
    rule: Rule,
    spacing: tuple[float, float, float],
    by: float,
) -> None:
    cases, lesions = sample
    grown = [
        LesionSample(x.case_id, 1, x.volume_mm3 * by**3, tuple(e * by for e in x.extent_mm))  # type: ignore[arg-type]
        for x in lesions
    ]
    before = ideal_edges(rule, cohort_of(cases, lesions, label=1), spacing)
    after = ideal_edges(rule, cohort_of(cases, grown, label=1), spacing)
    np.testing.assert_allclose(after, np.array(before) * by, rtol=1e-9)


@settings(max_examples=60)
@given(cohorts(), st.sampled_from(FORMULAS), st.none() | triple)
def test_every_plan_holds_together(
    sample: tuple[list[CaseSample], list[LesionSample]],
    rule: Rule,
    spacing: tuple[float, float, float] | None,
) -> None:
    cases, lesions = sample
    plan = plan_from_samples(cases, lesions, lesion_label=1, rule=rule, spacing=spacing, hu_range="wide", resamples=50)
    target = plan.target
    extents = np.median([np.multiply(case.shape, case.spacing) for case in cases], axis=0) / target.spacing
    for edge, extent, patch in zip(target.window_size, extents, target.patch_size, strict=True):
        assert edge in (48, 96) or (edge % patch == 0 and edge - patch < extent <= edge + 1e-6 < 48 + 1e-6)
    assert all(w % p == 0 for w, p in zip(target.window_size, target.patch_size, strict=True))
    assert [c.patch_size for c in target.candidates if c.chosen] == [target.patch_size]
    assert target.patch_size == choose_patch_size(target.ideal_edges[0].edge, ((8, 12, 16, 24),) * 3)
    shares = [c.smaller_lesions_share for c in target.candidates[:4]]
    assert shares == sorted(shares)
    assert [c.tokens for c in target.candidates[:4]] == sorted((c.tokens for c in target.candidates[:4]), reverse=True)
    for ideal in target.ideal_edges:
        assert (ideal.interval is None) == (target.patient_count == 1)
    # The order of cases and lesions changes only the draws of the bootstrap.
    turned = plan_from_samples(
        cases[::-1], lesions[::-1], lesion_label=1, rule=rule, spacing=spacing, hu_range="wide", resamples=50
    )
    assert turned.patch_size == plan.patch_size
    assert turned.window_size == plan.window_size
