"""Resampling against scipy, over shapes, spacings and memory orders; labels against their definition."""

from __future__ import annotations

import numpy as np
import scipy.ndimage as ndi
from hypothesis import given, settings
from hypothesis import strategies as st

from patchcore.resampling.image import resample_class_indices, resample_image

ratios = st.tuples(*[st.floats(0.4, 3.0)] * 3)
shapes = st.tuples(*[st.integers(1, 24)] * 3)


@settings(max_examples=60, deadline=None)
@given(shape=shapes, ratio=ratios, seed=st.integers(0, 99), fortran=st.booleans())
def test_linear_is_scipys(shape: tuple[int, int, int], ratio: tuple[float, ...], seed: int, fortran: bool) -> None:
    array = np.random.default_rng(seed).integers(-1000, 3000, shape, dtype=np.int16)
    array = np.asfortranarray(array) if fortran else array
    ours = resample_image(array, (1, 1, 1), ratio, kernel="linear", antialias=False)
    offset = (np.asarray(ratio) - 1) / 2
    theirs = ndi.affine_transform(
        array.astype(np.float64), np.asarray(ratio), offset, output_shape=ours.shape, order=1, mode="nearest"
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.51)


@settings(max_examples=60, deadline=None)
@given(shape=st.tuples(*[st.integers(6, 24)] * 3), ratio=ratios, seed=st.integers(0, 99), fortran=st.booleans())
def test_the_spline_is_scipys(shape: tuple[int, int, int], ratio: tuple[float, ...], seed: int, fortran: bool) -> None:
    array = np.random.default_rng(seed).integers(-1000, 3000, shape, dtype=np.int16)
    array = np.asfortranarray(array) if fortran else array
    # The spacings are equal, so no axis is thick.
    ours = resample_image(array, (1, 1, 1), ratio, antialias=False)
    offset = (np.asarray(ratio) - 1) / 2
    theirs = ndi.affine_transform(
        array.astype(np.float64), np.asarray(ratio), offset, output_shape=ours.shape, order=3, mode="mirror"
    )
    np.testing.assert_allclose(ours, theirs.clip(-32768, 32767), rtol=0, atol=0.6)


@settings(max_examples=60, deadline=None)
@given(shape=shapes, ratio=ratios, seed=st.integers(0, 99), classes=st.integers(1, 4))
def test_labels_are_the_largest_membership(
    shape: tuple[int, int, int], ratio: tuple[float, ...], seed: int, classes: int
) -> None:
    label = np.random.default_rng(seed).integers(0, classes + 1, shape).astype(np.uint8)
    ours = resample_class_indices(label, (1, 1, 1), ratio)
    offset = (np.asarray(ratio) - 1) / 2
    shares = np.stack(
        [
            ndi.affine_transform(
                (label == value).astype(np.float64),
                np.asarray(ratio),
                offset,
                output_shape=ours.shape,
                order=1,
                mode="nearest",
            )
            for value in range(classes + 1)
        ]
    )
    chosen = np.take_along_axis(shares, ours[None].astype(np.intp), axis=0)[0]
    assert (chosen >= shares.max(axis=0) - 3e-4).all()
    assert (chosen > 0).all()
