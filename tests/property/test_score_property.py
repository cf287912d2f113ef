"""Scores against peers: surfaces and Voronoi regions against MONAI, overlaps and statistics against SciPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from monai.metrics import (
    DiceMetric,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from monai.metrics.utils import get_edge_surface_distance
from scipy import ndimage, stats

from patchcore.metrics import MaskPair, compare_pairs, estimate_mean, estimate_median, mean_over_classes, surface_scores
from patchcore.metrics.matching import cc_metrics, overlap_matching, panoptica

Masks = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]

_DSC = st.integers(0, 1000).map(lambda value: value / 1000)
_SHAPES = st.tuples(*[st.integers(2, 7)] * 3)
_SPACINGS = st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 1.5, 2.5])] * 3)


@st.composite
def masks(draw: st.DrawFn) -> Masks:
    """Two masks of one shape, with voxels in both."""
    shape = draw(_SHAPES)
    pair = []
    for _ in range(2):
        mask = draw(npst.arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 1])))
        mask[tuple(draw(st.integers(0, n - 1)) for n in shape)] = 1
        pair.append(mask)
    return pair[0], pair[1]


def _batch(mask: npt.NDArray[np.uint8]) -> Any:
    foreground = torch.from_numpy(mask.astype(np.float32))
    return torch.stack([1 - foreground, foreground])[None]


@settings(max_examples=60, deadline=None)
@given(masks(), _SPACINGS)
def test_the_voxel_convention_is_monais(pair: Masks, spacing: tuple[float, float, float]) -> None:
    truth, prediction = pair
    found = surface_scores(truth, prediction, spacing, conventions=("voxel",), tolerances_mm=(1.0, 2.2))["voxel"]
    y, y_pred = _batch(truth), _batch(prediction)
    assert found.hd_mm == pytest.approx(float(compute_hausdorff_distance(y_pred, y, spacing=spacing)), rel=1e-4)
    _, distances, _ = get_edge_surface_distance(
        torch.from_numpy(prediction.astype(bool)), torch.from_numpy(truth.astype(bool)), spacing=spacing, symmetric=True
    )
    both = [float(value) for part in distances for value in part]
    assert found.assd_mm == pytest.approx(math.fsum(both) / len(both), rel=1e-4, abs=1e-6)
    for mm, share in found.nsd.items():
        expected = float(compute_surface_dice(y_pred, y, [mm], spacing=spacing))
        # MONAI computes distances in float32: at the tolerance, rounding decides.
        if not any(abs(value - mm) < 1e-5 for value in both):
            assert share == pytest.approx(expected, rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(masks(), _SPACINGS)
def test_the_order_of_axes_and_the_direction_change_nothing(pair: Masks, spacing: tuple[float, float, float]) -> None:
    truth, prediction = pair
    conventions = ("mesh", "surfel", "voxel")
    found = surface_scores(truth, prediction, spacing, conventions=conventions)
    # The triangles of a face are divided along a diagonal, so under `mesh` a flip gives slightly other numbers.
    turned = [np.asfortranarray(mask.transpose(2, 0, 1)) for mask in pair]
    flipped = surface_scores(truth[::-1], prediction[::-1], spacing, conventions=conventions)
    again = surface_scores(
        turned[0], np.ascontiguousarray(turned[1]), [spacing[n] for n in (2, 0, 1)], conventions=conventions
    )
    swapped = surface_scores(prediction, truth, spacing, conventions=conventions)
    for name in conventions:
        # Not HD95: where the sum of weights is 95 % to the last bit, the order of adding decides.
        for value in ("hd_mm", "masd_mm", "assd_mm", "rmsd_mm"):
            expected = pytest.approx(getattr(found[name], value), rel=1e-9, abs=1e-12)
            assert getattr(swapped[name], value) == expected
            assert getattr(again[name], value) == expected
            if name != "mesh":
                assert getattr(flipped[name], value) == expected
        assert swapped[name].nsd == pytest.approx(found[name].nsd)
        assert found[name].hd_mm >= found[name].hd95_mm >= 0
    same = surface_scores(truth, truth, spacing, conventions=conventions)
    assert all(score.hd_mm == 0 and score.nsd[1.0] == 1 for score in same.values())


@pytest.mark.filterwarnings("ignore:Voronoi computation is running on CPU")
@settings(max_examples=80, deadline=None)
@given(masks())
def test_lesions_are_matched_as_peers_do(pair: Masks) -> None:
    truth, prediction = pair
    found = MaskPair(truth, prediction, affine=np.eye(4))
    a, n_a = ndimage.label(truth, np.ones((3, 3, 3)))
    b, n_b = ndimage.label(prediction, np.ones((3, 3, 3)))
    assert (len(found.truth), len(found.prediction)) == (n_a, n_b)
    table = np.zeros((n_a + 1, n_b + 1), int)
    np.add.at(table, (a, b), 1)
    np.testing.assert_array_equal(found.overlap_matrix(), table[1:, 1:])
    scores = overlap_matching(found)
    assert scores["found"] == (table[1:, 1:].sum(axis=1) > 0).sum()
    assert scores["true"] == (table[1:, 1:].sum(axis=0) > 0).sum()
    metric = DiceMetric(include_background=False, per_component=True)
    expected = float(metric(_batch(prediction), _batch(truth)))
    assert cc_metrics(found)["dsc"] == pytest.approx(expected, abs=1e-6)
    # A threshold above ½ allows one partner only, so the order of matching does not matter.
    matched = panoptica(found, threshold=0.51)
    sizes = table.sum(axis=1)[1:, None] + table.sum(axis=0)[None, 1:] - table[1:, 1:]
    ious = table[1:, 1:] / sizes
    assert matched["tp"] == (ious >= 0.51).sum()
    if matched["tp"]:
        assert matched["sq"] == pytest.approx(ious[ious >= 0.51].mean())
    assert matched["fp"] == n_b - matched["tp"]
    assert matched["fn"] == n_a - matched["tp"]


@given(st.lists(_DSC, min_size=2, max_size=30), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_intervals_contain_the_mean_and_do_not_depend_on_the_order(values: list[float], seed: int) -> None:
    found = estimate_mean(values, seed=seed, resamples=400)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.low <= found.mean + 1e-12
    assert found.high >= found.mean - 1e-12
    if np.ptp(values) > 0:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert (found.t_low, found.t_high) == pytest.approx((low, high))
    together = estimate_mean([*values, *values], [*range(len(values))] * 2, seed=seed, resamples=400)
    # The same patient twice says nothing new.
    assert (together.low, together.high) == pytest.approx((found.low, found.high))


@given(st.lists(st.tuples(_DSC, _DSC), min_size=6, max_size=30))
@settings(max_examples=40, deadline=None)
def test_comparisons_are_scipys(scores: list[tuple[float, float]]) -> None:
    first, second = np.array(scores).T
    found = compare_pairs(first, second, resamples=200)
    if np.any(first != second):
        assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(first - second).pvalue)
    if np.ptp(first - second) > 1e-9:
        one_sided = stats.ttest_rel(first, second, alternative="greater").pvalue
        assert found.false_order == pytest.approx(min(one_sided, 1 - one_sided))
    median = estimate_median(first)
    assert median.median == np.median(first)
    if not math.isnan(median.low):
        assert median.low <= median.median <= median.high


def test_an_interval_of_order_statistics_holds_its_promise() -> None:
    generator = np.random.default_rng(0)
    for n in (6, 15, 40):
        inside = 0
        for _ in range(2000):
            found = estimate_median(generator.exponential(size=n))
            inside += found.low <= math.log(2) <= found.high
        assert inside / 2000 == pytest.approx(found.coverage, abs=0.02)
        assert found.coverage >= 0.95


def test_the_mean_over_classes_is_over_classes_first() -> None:
    found = mean_over_classes({"1": [0.9, 0.9, 0.9], "2": [math.nan, 0.3, math.nan]}, ["a", "b", "b"])
    assert found.mean == pytest.approx(0.6)
    assert (found.n, found.patients) == (3, 2)
    assert math.isnan(found.t_low)
    assert found.low <= 0.6 <= found.high
