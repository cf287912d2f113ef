"""DSC of label maps compared with MONAI, means of DSC, and the baselines without training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics import DiceMetric, compute_dice

from patchcore.errors import ConfigError, ShapeMismatchError
from patchcore.metrics import DscCounts, VoxelCounts, best_threshold_dsc, centre_ball, dsc, dsc_ball_baseline, mean_dsc
from real_data import DATA


def label_maps(seed: int, *, cases: int = 5, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, classes, size=(2, cases, 7, 6, 5), dtype=np.uint8)
    maps[:, 0][maps[:, 0] == classes - 1] = 0
    maps[1, 1] = 0
    return maps[0], maps[1]


def one_hot(maps: np.ndarray, classes: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([maps == c for c in range(classes)], axis=1))


@pytest.mark.parametrize("seed", range(3))
def test_equals_monai_per_case_and_mean(seed: int) -> None:
    predictions, labels = label_maps(seed)
    theirs = compute_dice(one_hot(predictions, 3), one_hot(labels, 3), include_background=False, ignore_empty=False)
    both_empty = ~(one_hot(predictions, 3) | one_hot(labels, 3)).flatten(2).any(2)[:, 1:]
    counts = DscCounts((1, 2))
    for i, (prediction, label) in enumerate(zip(predictions, labels, strict=True)):
        counts.add(f"case_{i}", prediction, label)
        expected = torch.where(both_empty[i], torch.nan, theirs[i]).tolist()
        assert list(dsc(prediction, label, (1, 2)).values()) == pytest.approx(expected, nan_ok=True)
        assert counts.per_case()[f"case_{i}"] == pytest.approx(dsc(prediction, label, (1, 2)), nan_ok=True)
    assert both_empty.any()
    per_class = np.where(both_empty, np.nan, theirs.numpy())
    summary = counts.summary()
    assert summary.cases == len(labels)
    for column, value in enumerate((1, 2)):
        result = summary.classes[value]
        assert result.mean == pytest.approx(np.nanmean(per_class[:, column]))
        assert (result.n, result.undefined) == (
            int((~both_empty[:, column]).sum()),
            int(both_empty[:, column].sum()),
        )
        joined = dsc(predictions.ravel(), labels.ravel(), (value,))[value]
        assert result.global_dsc == pytest.approx(joined)
    assert summary.mean == pytest.approx(np.nanmean(per_class, axis=0).mean())


def test_mean_equals_monais_metric_where_every_case_is_labelled() -> None:
    rng = np.random.default_rng(7)
    predictions, labels = rng.integers(0, 2, size=(2, 4, 6, 6, 6))
    metric = DiceMetric(include_background=False, reduction="mean")
    metric(one_hot(predictions, 2), one_hot(labels, 2))
    counts = DscCounts((1,))
    for i in range(4):
        counts.add(str(i), predictions[i], labels[i])
    assert counts.summary().mean == pytest.approx(float(metric.aggregate()))


def test_a_miss_is_zero_and_neither_is_nan() -> None:
    empty, full = np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)
    assert dsc(empty, full, (1,)) == {1: 0.0}
    assert dsc(full, empty, (1,)) == {1: 0.0}
    assert dsc(full, full, (1,)) == {1: 1.0}
    assert math.isnan(dsc(empty, empty, (1,))[1])


@given(st.integers(0, 2**32 - 1))
def test_slabs_and_ranks_add_up_to_the_whole(seed: int) -> None:
    predictions, labels = label_maps(seed)
    whole, slabs, other = DscCounts((1, 2)), DscCounts((1, 2)), DscCounts((1, 2))
    for i, (prediction, label) in enumerate(zip(predictions, labels, strict=True)):
        whole.add(str(i), prediction, label)
        slabs.add(str(i), prediction[:3], label[:3])
        (slabs if i % 2 else other).add(str(i), prediction[3:], label[3:])
    slabs.merge(other)
    assert all(slabs.counts(str(i)) == whole.counts(str(i)) for i in range(len(labels)))
    assert len(slabs) == len(whole)


def test_no_case_has_no_mean() -> None:
    summary = DscCounts((1,)).summary()
    assert math.isnan(summary.mean)
    assert math.isnan(summary.global_dsc)
    assert summary.classes[1].n == 0
    assert math.isnan(mean_dsc([math.nan]))


def test_mismatches_name_the_case_and_count_nothing() -> None:
    counts = DscCounts((1,))
    with pytest.raises(ShapeMismatchError, match=r"case_7: prediction shape \(2,\) does not match label shape \(3,\)"):
        counts.add("case_7", np.zeros(2), np.zeros(3))
    assert len(counts) == 0
    with pytest.raises(ConfigError, match="distinct"):
        DscCounts((1, 1))
    with pytest.raises(ConfigError, match="cannot be added"):
        counts.merge(DscCounts((2,)))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.0, 2.0)])
@pytest.mark.parametrize("shape", [(40, 41, 42), (61, 40, 31)])
def test_the_ball_has_its_volume_and_is_centred(shape: tuple[int, ...], spacing: tuple[float, float, float]) -> None:
    ball = centre_ball(shape, spacing, 2000.0)
    assert ball.shape == shape
    assert ball.sum() * math.prod(spacing) == pytest.approx(2000, rel=0.05)
    assert (ball == ball[::-1, ::-1, ::-1]).all()
    radius = (3 * 2000 / (4 * math.pi)) ** (1 / 3)
    extent = [np.ptp(index) * s for index, s in zip(np.nonzero(ball), spacing, strict=True)]
    assert all(abs(e - 2 * radius) <= 2 * s for e, s in zip(extent, spacing, strict=True))


def test_the_ball_baseline_scores_each_case() -> None:
    ball = centre_ball((20, 20, 20), (1, 1, 1), 500)
    result = dsc_ball_baseline([ball, np.roll(ball, 3, 0), ~ball], [(1, 1, 1)] * 3, volume_mm3=500)
    assert result.dsc[0] == 1
    assert 0 < result.dsc[1] < 1
    assert result.dsc[2] == 0
    assert result.mean == pytest.approx(sum(result.dsc) / 3)
    assert result.n == 3
    with pytest.raises(ConfigError, match="positive"):
        centre_ball((3, 3, 3), (1, 1, 1), 0)


@given(st.integers(0, 2**32 - 1))
def test_the_best_threshold_is_the_best_of_all_tried(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(-5, 6, size=(3, 4, 4, 4))
    organs, lesions = rng.random((2, 3, 4, 4, 4)) < [[[[[0.7]]]], [[[[0.3]]]]]
    thresholds = np.arange(-6.0, 7.0)
    best = (-1.0, 0.0, "")
    for side in ("above", "below"):
        for t in thresholds:
            called = [
                organ & ((image > t) if side == "above" else (image < t))
                for image, organ in zip(images, organs, strict=True)
            ]
            mean = mean_dsc(dsc(p, lesion, (1,))[1] for p, lesion in zip(called, lesions, strict=True))
            if mean > best[0] + 1e-12:
                best = (mean, float(t), side)
    result = best_threshold_dsc(iter(images), organs, lesions, thresholds)
    assert result.mean == pytest.approx(best[0])
    assert (result.threshold, result.side) == best[1:]
    assert result.n == 3


def test_a_threshold_needs_something_to_try() -> None:
    volume = np.zeros((2, 2, 2))
    with pytest.raises(ConfigError, match="at least one case"):
        best_threshold_dsc([], [], [], [0.0])
    with pytest.raises(ConfigError, match="one threshold"):
        best_threshold_dsc([volume], [volume], [volume], [])
    with pytest.raises(ShapeMismatchError, match="shapes differ"):
        best_threshold_dsc([volume], [volume[:1]], [volume], [0.0])


@pytest.mark.parametrize(("cohort", "folder", "expected"), [("lidc_nodules", None, 0.50), ("sts", "mask", 0.63)])
def test_the_ball_on_real_crops(cohort: str, folder: str | None, expected: float) -> None:
    root = DATA / cohort
    if not root.is_dir():
        pytest.skip("no real data here")
    nibabel = pytest.importorskip("nibabel")
    folder = folder or next(
        p.name for p in sorted(root.iterdir()) if p.is_dir() and p.name.lower().startswith(("mask", "label"))
    )
    masks, spacings = [], []
    for path in sorted((root / folder).glob("*.nii*")):
        image = nibabel.load(path)
        masks.append(np.asanyarray(image.dataobj) != 0)
        spacings.append(tuple(float(s) for s in image.header.get_zooms()[:3]))
    volumes = [m.sum() * math.prod(s) for m, s in zip(masks, spacings, strict=True)]
    result = dsc_ball_baseline(masks, spacings, volume_mm3=float(np.median(volumes)))
    assert result.mean == pytest.approx(expected, abs=0.01)


def test_recall_is_the_share_of_the_labelled_voxels() -> None:
    assert VoxelCounts(3, 10, 4).recall == 3 / 4
    assert math.isnan(VoxelCounts(0, 10, 0).recall)
