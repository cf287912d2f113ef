"""The FROC equals a count at every threshold, and candidates equal those of scipy."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from patchcore.errors import ShapeMismatchError
from patchcore.metrics.froc import FROC_RATES, LEAST_IOU, Candidates, find_candidates, froc

Hits = st.one_of(st.none(), st.lists(st.integers(0, 2), max_size=2, unique=True).map(tuple))
Cases = st.lists(st.lists(st.tuples(st.sampled_from([0.2, 0.4, 0.6, 0.8]), Hits), max_size=6), min_size=1, max_size=4)


@settings(max_examples=200, deadline=None)
@given(rows=Cases)
def test_the_curve_is_a_count_at_every_threshold(rows: Any) -> None:
    cases = [Candidates(3, tuple(s for s, _ in case), tuple(h for _, h in case)) for case in rows]
    curve = froc(cases)
    expected = {(0.0, 0.0)}
    for least in (0.2, 0.4, 0.6, 0.8):
        false = sum(h == () for case in cases for s, h in zip(case.scores, case.hits, strict=True) if s >= least)
        found = {
            (number, lesion)
            for number, case in enumerate(cases)
            for s, h in zip(case.scores, case.hits, strict=True)
            if s >= least
            for lesion in h or ()
        }
        expected.add((false / len(cases), len(found) / (3 * len(cases))))
    assert set(zip(curve.false_per_case, curve.sensitivity, strict=True)) <= expected
    last = (curve.false_per_case[-1], curve.sensitivity[-1])
    assert last == max(expected)
    assert list(curve.false_per_case) == sorted(curve.false_per_case)
    for rate in FROC_RATES:
        assert curve.at[f"{rate:g}"] == max(share for false, share in expected if false <= rate)
    assert curve.mean == pytest.approx(sum(curve.at.values()) / len(FROC_RATES))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), least=st.sampled_from([0.0, 3.0, 8.0]), scale=st.sampled_from([1.0, 65535.0]))
def test_candidates_equal_those_of_scipy(seed: int, least: float, scale: float) -> None:
    random = np.random.default_rng(seed)
    shape = (12, 11, 10)
    truth = ndimage.gaussian_filter(random.standard_normal(shape), 1) > 0.3
    chance = np.clip(ndimage.gaussian_filter(random.standard_normal(shape), 1) + 0.1, 0, 1)
    values = chance if scale == 1 else np.rint(chance * scale).astype(np.uint16)
    found = find_candidates(values, truth, voxel_mm3=0.5, min_volume_mm3=least, scale=scale)
    eight = np.ones((3, 3, 3))
    lesions, count = ndimage.label(truth, eight)
    sizes = np.bincount(lesions.ravel(), minlength=count + 1) * 0.5
    large = [number for number in range(1, count + 1) if sizes[number] >= least]
    components, total = ndimage.label(values > 0.1 * scale, eight)
    expected = []
    for number in range(1, total + 1):
        inside = components == number
        met = set(lesions[inside].tolist()) - {0}
        hits = []
        for lesion in sorted(met & set(large)):
            of_lesion = lesions == lesion
            if (inside & of_lesion).sum() / (inside | of_lesion).sum() >= LEAST_IOU:
                hits.append(large.index(lesion))
        neither = bool(met) and not met & set(large)
        expected.append((round(float(values[inside].max() / scale), 9), None if neither else tuple(hits)))
    assert found.lesions == len(large)
    ours = [(round(score, 9), hits) for score, hits in zip(found.scores, found.hits, strict=True)]
    assert sorted(ours, key=repr) == sorted(expected, key=repr)
    assert Candidates.from_json(json.loads(json.dumps(asdict(found)))) == found


def test_no_lesions_and_other_shapes() -> None:
    curve = froc([Candidates(0, (0.5,), ((),))])
    assert math.isnan(curve.mean)
    assert curve.false_per_case == (0.0, 1.0)
    with pytest.raises(ShapeMismatchError, match="does not match"):
        find_candidates(np.zeros((2, 2, 2)), np.zeros((2, 2, 3), bool), voxel_mm3=1.0)


def test_one_candidate_as_large_as_the_scan_finds_nothing() -> None:
    truth = np.zeros((20, 20, 20), bool)
    truth[2:5, 2:5, 2:5] = truth[12:15, 12:15, 12:15] = True
    found = find_candidates(np.full(truth.shape, 0.11), truth, voxel_mm3=1.0)
    assert (found.lesions, found.hits) == (2, ((),))
    assert froc([found]).mean == 0
