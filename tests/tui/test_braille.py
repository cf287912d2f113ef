from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from patchcore.tui.braille import decimate, dots, encode


def naive(steps: np.ndarray, values: np.ndarray, start: float, stop: float, columns: int) -> np.ndarray:
    """Return the smallest and largest finite value of each column, computed point by point."""
    found = np.full((2, columns), np.nan)
    for step, value in zip(steps, values, strict=True):
        if start <= step <= stop and np.isfinite(value):
            column = round(float((step - start) / (stop - start) * (columns - 1)))
            found[0, column] = np.fmin(found[0, column], value)
            found[1, column] = np.fmax(found[1, column], value)
    return found


@given(
    values=hnp.arrays(np.float64, st.integers(0, 80), elements=st.floats(-1e6, 1e6) | st.just(np.nan)),
    columns=st.integers(1, 40),
    seed=st.integers(0, 5),
)
def test_every_column_covers_its_points(values: np.ndarray, columns: int, seed: int) -> None:
    steps = np.sort(np.random.default_rng(seed).integers(0, 100, len(values))).astype(float)
    trace = decimate(steps, values, start=0.0, stop=100.0, columns=columns)
    low, high = naive(steps, values, 0.0, 100.0, columns)
    seen = ~np.isnan(low)
    assert (trace.low[seen] <= low[seen]).all()
    assert (trace.high[seen] >= high[seen]).all()
    assert np.array_equal(~np.isnan(trace.points), seen)
    if seen.any():  # connecting lines stay within the range of the data
        assert np.nanmin(trace.low) == pytest.approx(low[seen].min())
        assert np.nanmax(trace.high) == pytest.approx(high[seen].max())


def test_a_spike_among_many_points_is_kept() -> None:
    values = np.zeros(100_000)
    values[41_234] = 1.0
    trace = decimate(np.arange(100_000.0), values, start=0, stop=99_999, columns=100)
    assert np.nanmax(trace.high) == 1.0
    assert trace.dense


def test_nan_breaks_the_line_and_nothing_else_does() -> None:
    steps = np.array([0.0, 5.0, 6.0, 10.0])
    whole = decimate(steps[[0, 1, 3]], np.array([1.0, 2.0, 3.0]), start=0, stop=10, columns=11)
    broken = decimate(steps, np.array([1.0, 2.0, np.nan, 3.0]), start=0, stop=10, columns=11)
    assert not np.isnan(whole.low).any()
    assert np.isnan(broken.low).tolist() == [False] * 6 + [True] * 4 + [False]


def test_order_of_steps_does_not_matter() -> None:
    steps, values = np.arange(30.0), np.random.default_rng(0).random(30)
    order = np.random.default_rng(1).permutation(30)
    one = decimate(steps, values, start=0, stop=29, columns=12)
    other = decimate(steps[order], values[order], start=0, stop=29, columns=12)
    np.testing.assert_array_equal(one.low, other.low)
    np.testing.assert_array_equal(one.high, other.high)


def test_a_straight_line_is_one_dot_thick() -> None:
    trace = decimate(np.array([0.0, 39.0]), np.array([0.0, 39.0]), start=0, stop=39, columns=40)
    canvas = dots(trace.low, trace.high, bottom=0.0, top=39.0, rows=40)
    assert np.array_equal(canvas, np.eye(40, dtype=bool)[::-1])


@pytest.mark.parametrize("values", [[], [np.nan], [np.nan, np.inf]])
def test_nothing_finite_draws_nothing(values: list[float]) -> None:
    trace = decimate(np.arange(float(len(values))), np.array(values), start=0, stop=1, columns=4)
    assert not dots(trace.low, trace.high, bottom=0.0, top=1.0, rows=8).any()


def test_each_dot_has_its_bit() -> None:
    # The bits of U+2801 … U+2880, row by row, in Unicode's numbering.
    expected = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]]
    for row in range(4):
        for column in range(2):
            canvas = np.zeros((4, 2), dtype=bool)
            canvas[row, column] = True
            assert encode(canvas).tolist() == [[expected[row][column]]]
