"""The sampler draws in the declared proportions, and draws the same windows for any division of the work."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from patchcore.errors import DataError, WindowError
from patchcore.windows.sampling import HardPoints, Purpose, SamplerCase, WindowSampler, uniforms

WINDOW = np.array((16, 16, 16))


@dataclass(frozen=True)
class Spans:
    lesion: np.ndarray
    origin: np.ndarray
    length: np.ndarray
    axis: int
    lesion_count: int


def case(shape, lesions, axis=2):
    """A case whose lesions are lists of (origin, length)."""
    rows = [(number, *span) for number, lesion in enumerate(lesions) for span in lesion]
    spans = Spans(
        lesion=np.array([row[0] for row in rows], np.int32),
        origin=np.array([row[1] for row in rows], np.int32).reshape(-1, 3),
        length=np.array([row[2] for row in rows], np.int32),
        axis=axis,
        lesion_count=len(lesions),
    )
    return SamplerCase(shape, spans)


CASES = [
    case((40, 30, 20), [[((1, 2, 3), 4), ((1, 3, 3), 2)], [((39, 29, 10), 10)]]),
    case((10, 90, 12), [[((2, 5, 5), 3)], [((2, 20, 5), 1)], [((2, 50, 11), 5)], [((9, 89, 0), 1)]], axis=0),
    case((24, 24, 24), []),
]


def columns(draws):
    return np.column_stack([draws.case, draws.corner, draws.lesion, draws.voxel])


def test_windows_contain_the_lesion_voxel_they_were_drawn_for():
    draws = WindowSampler(CASES, WINDOW, seed=3).draw(0, range(5000))
    drawn = draws.lesion >= 0
    assert 0.4 < drawn.mean() < 0.6
    corner, voxel = draws.corner[drawn], draws.voxel[drawn]
    assert ((corner <= voxel) & (voxel < corner + WINDOW)).all()
    assert (draws.voxel[~drawn] == -1).all()
    for number, one in enumerate(CASES):
        spans = one.spans
        for lesion in range(spans.lesion_count):
            step = np.eye(3, dtype=int)[spans.axis]
            expected = {
                tuple(origin + n * step)
                for origin, length in zip(
                    spans.origin[spans.lesion == lesion], spans.length[spans.lesion == lesion], strict=True
                )
                for n in range(length)
            }
            chosen = (draws.case == number) & (draws.lesion == lesion)
            assert {tuple(row) for row in draws.voxel[chosen]} == expected


def test_windows_stay_in_their_case_or_hold_all_of_it():
    draws = WindowSampler(CASES, WINDOW, seed=1).draw(9, range(3000))
    shape = np.array([one.shape for one in CASES])[draws.case]
    inside = (draws.corner >= 0) & (draws.corner + WINDOW <= shape)
    around = (draws.corner <= 0) & (draws.corner + WINDOW >= shape)
    assert (inside | around).all()


@pytest.mark.parametrize(("share", "alpha"), [(0.5, 0.5), (0.25, 0.0), (0.8, 1.0)])
def test_proportions_are_the_declared_ones(share, alpha):
    draws = WindowSampler(CASES, WINDOW, seed=0, lesion_share=share, alpha=alpha).draw(0, range(50_000))
    counts = np.array([2, 4])
    weights = counts**alpha / (counts**alpha).sum()
    observed = [np.count_nonzero((draws.case == c) & (draws.lesion == n)) for c in (0, 1) for n in range(counts[c])]
    observed += [np.count_nonzero((draws.case == c) & (draws.lesion < 0)) for c in range(3)]
    expected = [share * weights[c] / counts[c] for c in (0, 1) for _ in range(counts[c])] + [(1 - share) / 3] * 3
    assert chisquare(observed, np.multiply(expected, len(draws))).pvalue > 1e-3


def test_voxels_of_a_lesion_and_places_in_a_window_are_uniform():
    lesion = [((30, 30, 30), 7), ((30, 31, 28), 1), ((31, 30, 30), 4)]
    draws = WindowSampler([case((64, 64, 64), [lesion])], WINDOW, lesion_share=1.0).draw(0, range(24_000))
    _, counts = np.unique(draws.voxel, axis=0, return_counts=True)
    assert len(counts) == 12
    assert chisquare(counts).pvalue > 1e-3
    for axis in range(3):
        assert chisquare(np.bincount(draws.voxel[:, axis] - draws.corner[:, axis], minlength=16)).pvalue > 1e-3


def test_at_a_border_and_in_a_small_volume_places_are_as_uniform():
    """If windows were moved into the volume after they were drawn, most of them would lie at its border."""
    one = case((18, 64, 9), [[((8, 3, 4), 1)]])
    draws = WindowSampler([one], WINDOW, lesion_share=1.0).draw(0, range(6000))
    assert chisquare(np.bincount(draws.corner[:, 0], minlength=3)).pvalue > 1e-3
    assert chisquare(np.bincount(draws.corner[:, 1], minlength=4)).pvalue > 1e-3
    assert chisquare(np.bincount(draws.corner[:, 2] + 7, minlength=8)).pvalue > 1e-3


def test_without_lesions_all_windows_are_uniform():
    draws = WindowSampler([case((20, 16, 8), [])], WINDOW, lesion_share=1.0).draw(0, range(6000))
    assert (draws.lesion == -1).all()
    assert np.unique(draws.corner[:, 1]).tolist() == [0]
    assert chisquare(np.bincount(draws.corner[:, 0])).pvalue > 1e-3
    assert chisquare(np.bincount(draws.corner[:, 2] + 8)).pvalue > 1e-3


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_any_division_into_ranks_draws_the_same_windows(ranks):
    sampler = WindowSampler(CASES, WINDOW, seed=7)
    whole = columns(sampler.draw(5, range(24)))
    divided = np.empty_like(whole)
    for rank in range(ranks):
        divided[rank::ranks] = columns(WindowSampler(CASES, WINDOW, seed=7).draw(5, range(rank, 24, ranks)))
    np.testing.assert_array_equal(divided, whole)


def test_a_draw_depends_on_seed_and_step_alone():
    def draw(seed, step):
        return columns(WindowSampler(CASES, WINDOW, seed=seed).draw(step, range(16)))

    np.testing.assert_array_equal(draw(1, 2), draw(1, 2))
    assert (draw(1, 2) != draw(1, 3)).any()
    assert (draw(1, 2) != draw(2, 2)).any()


def test_unsorted_spans_mean_the_same_case():
    spans = CASES[0].spans
    order = np.array([2, 0, 1])
    shuffled = replace(spans, lesion=spans.lesion[order], origin=spans.origin[order], length=spans.length[order])
    one = WindowSampler([CASES[0]], WINDOW).draw(0, range(50))
    other = WindowSampler([SamplerCase(CASES[0].shape, shuffled)], WINDOW).draw(0, range(50))
    np.testing.assert_array_equal(columns(one), columns(other))


def test_what_cannot_be_sampled_is_reported():
    spans = CASES[0].spans
    with pytest.raises(DataError, match="no cases"):
        WindowSampler([], WINDOW)
    with pytest.raises(DataError, match=r"case 1: .*leaves the volume"):
        WindowSampler([CASES[0], SamplerCase((5, 5, 5), spans)], WINDOW)
    with pytest.raises(DataError, match=r"case 0: lesion 2 of 3 has no span"):
        WindowSampler([SamplerCase((40, 30, 20), replace(spans, lesion_count=3))], WINDOW)
    with pytest.raises(DataError, match="case 0: length is float64"):
        WindowSampler([SamplerCase((40, 30, 20), replace(spans, length=spans.length / 2))], WINDOW)
    with pytest.raises(DataError, match="case 0: spans of shapes"):
        WindowSampler([SamplerCase((40, 30, 20), replace(spans, length=spans.length[:2]))], WINDOW)
    with pytest.raises(DataError, match="lesion_share"):
        WindowSampler(CASES, WINDOW, lesion_share=1.1)
    with pytest.raises(DataError, match="alpha"):
        WindowSampler(CASES, WINDOW, alpha=float("nan"))
    with pytest.raises(DataError, match="seed is -1"):
        WindowSampler(CASES, WINDOW, seed=-1)
    with pytest.raises(WindowError, match="window_size"):
        WindowSampler(CASES, (16, 16))
    sampler = WindowSampler(CASES, WINDOW)
    with pytest.raises(DataError, match="step is"):
        sampler.draw(2**56, [0])
    with pytest.raises(DataError, match="positions are"):
        sampler.draw(0, [-1])
    with pytest.raises(DataError, match="positions are"):
        sampler.draw(0, [2**32])


def test_uniforms_are_uniform_and_independent_of_division():
    values = uniforms(0, 1, range(2000), Purpose.AUGMENT, 5)
    assert values.shape == (2000, 5)
    assert kstest(values.ravel(), "uniform").pvalue > 1e-3
    np.testing.assert_array_equal(uniforms(0, 1, [17, 3], Purpose.AUGMENT, 3), values[[17, 3], :3])
    assert (uniforms(0, 1, range(2000), Purpose.WINDOW, 5) != values).all()
    assert uniforms(0, 1, [], Purpose.AUGMENT, 2).shape == (0, 2)
    assert uniforms(0, 1, [4], Purpose.AUGMENT, 0).shape == (1, 0)
    with pytest.raises(DataError, match="count"):
        uniforms(0, 1, [4], Purpose.AUGMENT, -1)


@pytest.mark.parametrize(
    ("case_of", "voxel", "weight"),
    [
        ([[0]], [[1, 1, 1]], [1.0]),  # two axes
        ([0], [[1, 1]], [1.0]),  # two coordinates
        ([0], [[1, 1, 1]], [1.0, 2.0]),  # two weights
        ([0.5], [[1, 1, 1]], [1.0]),  # no integer
        ([0], [[1.5, 1, 1]], [1.0]),
        ([-1], [[1, 1, 1]], [1.0]),
    ],
)
def test_hard_points_that_do_not_fit_are_refused(case_of: list, voxel: list, weight: list) -> None:
    with pytest.raises(DataError, match="hard points of shapes"):
        WindowSampler(CASES, WINDOW, seed=0, hard_share=0.5, hard_points=HardPoints(case_of, voxel, weight))
