"""Windows equal plain NumPy for any dtype, memory layout and position; blending them restores the volume."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchcore.windows.blending import WindowBlender, gaussian_importance, window_grid
from patchcore.windows.extract import extract_windows

IMAGE_DTYPES = [
    "?",
    "i1",
    "u1",
    "i2",
    "u2",
    "i4",
    "u4",
    "i8",
    "u8",
    "f2",
    "f4",
    "f8",
    ">i2",
    ">f4",
    ">f8",
    ">i8",
]
LABEL_DTYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i2", ">i8"]

edges = st.integers(1, 40)
triples = st.tuples(edges, edges, edges)


@st.composite
def layouts(draw):
    """Return a function that copies a C-order array to another memory layout, with the same values."""
    axes = draw(st.permutations([0, 1, 2]))
    backwards = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    steps = draw(st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 2)))
    unaligned = draw(st.booleans())

    def lay_out(array):
        size = [n * step for n, step in zip(array.shape, steps, strict=True)]
        memory = np.zeros(int(np.prod(size)) * array.itemsize + 1, dtype=np.uint8)
        flat = memory[1:] if unaligned else memory[:-1]
        wide = flat.view(array.dtype).reshape([size[axis] for axis in axes]).transpose(np.argsort(axes))
        view = wide[tuple(slice(None, None, -s if flip else s) for s, flip in zip(steps, backwards, strict=True))]
        view[...] = array
        return view

    return lay_out


def values(rng, shape, dtype):
    kind = np.dtype(dtype).kind
    if kind == "f":
        array = rng.normal(0, 300, shape)
        array[rng.random(shape) < 0.05] = np.nan
        array[rng.random(shape) < 0.05] = -np.inf
        return array.astype(dtype)
    low, high = {"b": (0, 2), "u": (0, 120), "i": (-120, 120)}[kind]
    return rng.integers(low, high, shape).astype(dtype)


def pad_and_crop(volume, corner, size, padding):
    """Slow reference: copy the part of the window that lies in the volume, by explicit indices."""
    window = np.full(size, padding, dtype=volume.dtype)
    places = [np.arange(n) for n in size]
    inside = [p[(p + c >= 0) & (p + c < n)] for p, c, n in zip(places, corner, volume.shape, strict=True)]
    window[np.ix_(*inside)] = volume[np.ix_(*(p + c for p, c in zip(inside, corner, strict=True)))]
    return window


corners = st.tuples(*[st.integers(-45, 45)] * 3)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(IMAGE_DTYPES),
    st.sampled_from(LABEL_DTYPES),
    triples,
    triples,
    corners,
    layouts(),
    layouts(),
    st.integers(0, 99),
)
def test_a_window_is_pad_crop_clip_and_scale(
    image_dtype, label_dtype, shape, size, corner, lay_out, lay_label_out, seed
):
    rng = np.random.default_rng(seed)
    image = values(rng, shape, image_dtype)
    label = values(rng, shape, label_dtype)
    label = label if label.dtype == bool else np.abs(label)
    low, high = -50.0, 70.0
    expected = pad_and_crop(image.astype(np.float64), corner, size, low)
    expected = (np.clip(np.nan_to_num(expected, nan=low, posinf=high, neginf=low), low, high) - low) / (high - low)
    windows = extract_windows(
        lay_out(image), corner, size, hu_range=(low, high), labels=lay_label_out(label), threads=1 + seed % 2
    )
    np.testing.assert_allclose(windows.image[0], expected, rtol=0, atol=2e-7)
    np.testing.assert_array_equal(windows.label[0], pad_and_crop(label, corner, size, 0))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(IMAGE_DTYPES), triples, triples, corners, layouts(), st.integers(0, 99))
def test_a_raw_window_is_pad_and_crop(dtype, shape, size, corner, lay_out, seed):
    image = values(np.random.default_rng(seed), shape, dtype)
    windows = extract_windows(lay_out(image), corner, size, padding=-7)
    np.testing.assert_array_equal(windows.image[0], pad_and_crop(image.astype(np.float32), corner, size, -7))


@settings(max_examples=60, deadline=None)
@given(triples, st.tuples(*[st.integers(1, 16)] * 3), st.floats(0, 0.8), st.integers(1, 3), st.integers(0, 99))
def test_extract_then_blend_is_the_identity(shape, size, overlap, batch, seed):
    volume = np.random.default_rng(seed).integers(-1024, 3000, shape).astype(np.int16)
    grid = window_grid(shape, size, overlap=overlap)
    constant = WindowBlender(shape, 1, size, sigma=None)
    gaussian = WindowBlender(shape, 2, size, threads=1)
    for start in range(0, len(grid), batch):
        rows = grid[start : start + batch]
        image = extract_windows(volume, rows, size).image[:, None]
        constant.add(rows, image)
        gaussian.add(rows, np.concatenate([image, -image], axis=1))
    np.testing.assert_array_equal(constant.result()[0], volume)
    np.testing.assert_allclose(gaussian.result(), np.stack([volume, -volume]), rtol=1e-5, atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(triples, triples, st.sampled_from([0.0, 0.25, 0.5, 0.625, 0.9]))
def test_grid_and_weights_are_those_of_monai(shape, size, overlap):
    monai = pytest.importorskip("monai.data.utils")
    inferers = pytest.importorskip("monai.inferers.utils")
    padded = tuple(max(pair) for pair in zip(shape, size, strict=True))
    interval = inferers._get_scan_interval(padded, size, 3, (overlap,) * 3)
    pads = [max(n - s, 0) // 2 for n, s in zip(size, shape, strict=True)]
    expected = [
        [part.start - pad for part, pad in zip(place, pads, strict=True)]
        for place in monai.dense_patch_slices(padded, size, interval)
    ]
    assert window_grid(shape, size, overlap=overlap).tolist() == expected
    weights = monai.compute_importance_map(size, mode="gaussian", sigma_scale=0.125).numpy()
    np.testing.assert_allclose(gaussian_importance(size), weights, rtol=1e-4)
