"""Tests resampling to another spacing: rejected input, kept values, positions of voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from patchcore.errors import DataError, UnsupportedDataError, WindowError
from patchcore.resampling.image import resample_class_indices, resample_image, resampled_affine, resampled_shape


def test_the_same_spacing_copies_every_voxel() -> None:
    array = np.random.default_rng(0).integers(-32768, 32767, (7, 6, 5), dtype=np.int16)
    out = resample_image(array, (1, 2, 3), (1, 2, 3))
    assert out.dtype == np.int16
    np.testing.assert_array_equal(out, array)


def test_memory_order_is_kept() -> None:
    array = np.asfortranarray(np.zeros((7, 6, 5), np.int16))
    assert resample_image(array, (1, 1, 1), (2, 2, 2)).flags.f_contiguous
    assert resample_image(array.copy("C"), (1, 1, 1), (2, 2, 2)).flags.c_contiguous


def test_values_saturate_and_nan_is_air() -> None:
    array = np.full((6, 6, 6), 40_000.0, np.float32)
    array[:3] = np.nan
    out = resample_image(array, (1, 1, 1), (1, 1, 1))
    assert (out[:3] == -1024).all()
    assert (out[3:] == 32767).all()
    assert (resample_image(-array, (1, 1, 1), (2, 2, 2))[2] == -32768).all()


def test_a_spline_does_not_ring_across_thick_slices() -> None:
    step = np.zeros((8, 8, 8), np.int16)
    step[:, :, 4:] = 1000
    thick = resample_image(step, (1, 1, 5), (1, 1, 1.7), antialias=False)
    assert thick.min() == 0
    assert thick.max() == 1000
    assert resample_image(step, (1, 1, 2), (1, 1, 0.7), antialias=False).max() > 1000


def test_voxels_stay_where_they_are_in_the_world() -> None:
    affine = np.array([[-0.8, 0, 0, 100], [0, 0.9, 0, -50], [0, 0, 2.5, 7], [0, 0, 0, 1]])
    old, new = (0.8, 0.9, 2.5), (1.6, 1.1, 2.0)
    shape = (40, 50, 20)
    i, j, k = np.indices(shape)
    # World coordinates as HU are linear along each axis, and linear interpolation keeps them.
    world = np.stack([i, j, k, np.ones(shape)], -1) @ affine.T
    moved = resampled_affine(affine, old, new)
    for axis in range(3):
        values = np.rint(world[..., axis] * 50)
        out = resample_image(values.astype(np.float32), old, new, kernel="linear", antialias=False)
        i, j, k = np.indices(out.shape)
        expected = (np.stack([i, j, k, np.ones(out.shape)], -1) @ moved.T)[..., axis] * 50
        inner = (slice(1, -1),) * 3
        assert np.abs(out - expected)[inner].max() <= 1.01


def test_antialiasing_keeps_the_mean_of_a_fine_pattern() -> None:
    checkers = (np.indices((32, 32, 32)).sum(axis=0) % 2 * 1000).astype(np.int16)
    plain = resample_image(checkers, (1, 1, 1), (2.1, 2.1, 2.1), antialias=False)
    blurred = resample_image(checkers, (1, 1, 1), (2.1, 2.1, 2.1))
    assert np.ptp(plain) > 500
    assert np.ptp(blurred[2:-2, 2:-2, 2:-2]) < 60
    assert abs(blurred.mean() - 500) < 5


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "u2", "<i4", ">f4", "f8"])
def test_every_kind_of_number_is_read(dtype: str) -> None:
    array = np.random.default_rng(1).integers(0, 100, (9, 8, 7)).astype(dtype)
    expected = resample_image(array.astype(np.int16), (1, 1, 1), (1.3, 1.4, 0.7))
    np.testing.assert_array_equal(resample_image(array, (1, 1, 1), (1.3, 1.4, 0.7)), expected)


def test_threads_change_nothing() -> None:
    array = np.random.default_rng(2).integers(-1000, 1000, (31, 29, 37), dtype=np.int16)
    one = resample_image(array, (1, 1, 1), (1.7, 0.6, 2.2), threads=1)
    np.testing.assert_array_equal(one, resample_image(array, (1, 1, 1), (1.7, 0.6, 2.2), threads=3))


def test_labels_invent_no_class_and_keep_volume() -> None:
    label = np.zeros((40, 40, 40), np.uint8)
    i, j, k = np.indices(label.shape)
    label[(i - 20) ** 2 + (j - 20) ** 2 + (k - 20) ** 2 < 15**2] = 3
    label[(i - 20) ** 2 + (j - 20) ** 2 + (k - 24) ** 2 < 6**2] = 7
    out = resample_class_indices(label, (1, 1, 1), (2, 2, 2))
    assert set(np.unique(out)) == {0, 3, 7}
    for value in (3, 7):
        assert 8 * (out == value).sum() == pytest.approx((label == value).sum(), rel=0.1)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda a: resample_image(a, (1, 1, 0), (1, 1, 1)), DataError, "positive"),
        (lambda a: resample_image(a, (1, 1, 1), (1, float("nan"), 1)), DataError, "positive"),
        (lambda a: resample_image(a, (1, 1), (1, 1, 1)), WindowError, "spacing is"),
        (lambda a: resample_image(a[0], (1, 1, 1), (1, 1, 1)), UnsupportedDataError, "one 3D volume"),
        (lambda a: resample_image(a * 1j, (1, 1, 1), (1, 1, 1)), UnsupportedDataError, "complex"),
        (lambda a: resample_image(a, (1, 1, 1), (1, 1, 1), kernel="nearest"), DataError, "cubic"),
        (lambda a: resample_image(a, (1, 1, 1), (1e-9, 1, 1)), DataError, "ratio"),
        (lambda a: resample_class_indices(a, (1, 1, 1), (1, 1, 1)), UnsupportedDataError, "uint8 class indices"),
    ],
)
def test_what_makes_no_sense_is_refused(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call(np.zeros((4, 4, 4), np.int16))


def test_half_voxels_round_up() -> None:
    assert resampled_shape((3, 5, 1), (1, 1, 1), (2, 2, 9)) == (2, 3, 1)
