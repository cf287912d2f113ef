"""Lesion matching, compared with scipy.ndimage and a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from patchcore.errors import ShapeMismatchError
from patchcore.lesions.measure import lesion_spans
from patchcore.metrics import LesionMatch, LesionScore, lesion_score, match_lesions

STRUCTURES = {6: 1, 18: 2, 26: 3}


def by_loop(one: np.ndarray, other: np.ndarray, connectivity: int, smallest: float) -> list[tuple[float, float]]:
    numbered, count = ndimage.label(one, ndimage.generate_binary_structure(3, STRUCTURES[connectivity]))
    found = []
    for number in range(1, count + 1):
        part = numbered == number
        if part.sum() * 2.0 >= smallest:
            found.append((part.sum() * 2.0, (part & other).sum() / part.sum()))
    return sorted(found)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([6, 18, 26]), st.sampled_from([0.0, 4.0, 9.0]))
def test_equals_a_loop_over_components(seed: int, connectivity: int, smallest: float) -> None:
    generator = np.random.default_rng(seed)
    truth, prediction = (generator.random((7, 6, 5)) < share for share in generator.uniform(0, 0.4, 2))
    match = match_lesions(prediction, truth, voxel_mm3=2.0, connectivity=connectivity, min_volume_mm3=smallest)
    # Specks of the prediction find no lesion.
    numbered, count = ndimage.label(prediction, ndimage.generate_binary_structure(3, STRUCTURES[connectivity]))
    sizes = np.bincount(numbered.ravel(), minlength=count + 1) * 2.0 >= smallest
    found = prediction & sizes[numbered]
    ours = sorted(zip(match.true_mm3, match.covered_share, strict=True))
    np.testing.assert_allclose(ours, by_loop(truth, found, connectivity, smallest))
    ours = sorted(zip(match.predicted_mm3, match.overlap_share, strict=True))
    np.testing.assert_allclose(ours, by_loop(prediction, truth, connectivity, smallest))
    assert match.found == sum(share > 0 for share in match.covered_share)


def test_noise_finds_no_lesion() -> None:
    truth = np.zeros((40, 40, 40), bool)
    truth[10:20, 10:20, 10:20] = True
    noise = np.zeros_like(truth)
    noise[::2, ::2, ::2] = True
    match = match_lesions(noise, truth, voxel_mm3=1.0, min_volume_mm3=5.0)
    assert (match.covered_share, match.predicted_mm3, match.false_positives) == ((0.0,), (), 0)
    noise[30:32, 30:32, 30:32] = True
    match = match_lesions(noise, truth, voxel_mm3=1.0, min_volume_mm3=5.0, true_spans=lesion_spans(truth))
    assert (match.found, match.false_positives) == (0, 1)


def test_known_spans_are_all_counted_however_small() -> None:
    truth = np.zeros((6, 6, 6), bool)
    truth[1, 1, 1] = truth[3:6, 3:6, 3:6] = True
    match = match_lesions(truth, truth, voxel_mm3=1.0, min_volume_mm3=5.0, true_spans=lesion_spans(truth))
    assert match.true_mm3 == (1.0, 27.0)
    assert match.predicted_mm3 == (27.0,)


def test_of_nothing_nothing_is_defined() -> None:
    nothing = np.zeros((4, 4, 4), bool)
    score, bins = lesion_score([match_lesions(nothing, nothing, voxel_mm3=1.0)])
    assert score == LesionScore()
    assert math.isnan(score.recall)
    assert math.isnan(score.precision)
    assert len(bins) == 4


def test_bins_go_by_each_sides_own_size() -> None:
    # True lesions: 4 mm (found by a component of 30 mm), 12 mm (missed). Predicted: 30 mm, 6 mm (false).
    match = LesionMatch((33.5, 905.0), (0.5, 0.0), (14137.0, 113.0), (0.01, 0.0))
    score, bins = lesion_score([match, match])
    assert (score.lesions, score.found, score.predicted, score.true) == (4, 2, 4, 2)
    assert [(b.lesions, b.found) for b in bins] == [(2, 2), (0, 0), (2, 0), (0, 0)]
    assert [(b.predicted, b.true) for b in bins] == [(0, 0), (2, 0), (0, 0), (2, 2)]


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ShapeMismatchError, match=r"\(4, 4, 4\)"):
        match_lesions(np.zeros((4, 4, 4), bool), np.zeros((4, 4, 5), bool), voxel_mm3=1.0)


def test_a_component_below_the_least_volume_finds_nothing_and_one_of_it_does() -> None:
    truth = np.zeros((12, 6, 6), bool)
    truth[1:4, 1:4, 1:4] = truth[7:10, 1:4, 1:4] = True
    prediction = np.zeros_like(truth)
    prediction[1:3, 1:3, 1:3] = True  # 8 voxels
    prediction[7, 1, 1:4] = True  # 3 voxels
    for least, found in ((8.0, (8 / 27, 0.0)), (3.0, (8 / 27, 3 / 27)), (8.5, (0.0, 0.0))):
        match = match_lesions(prediction, truth, voxel_mm3=1.0, min_volume_mm3=least)
        assert match.covered_share == pytest.approx(found)
    with_known = match_lesions(prediction, truth, voxel_mm3=1.0, min_volume_mm3=8.0, true_spans=lesion_spans(truth))
    assert with_known.covered_share == pytest.approx((8 / 27, 0.0))
