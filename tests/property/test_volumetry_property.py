"""Measuring against scipy and connected-components-3d over dtype × order × connectivity × density."""

from __future__ import annotations

import cc3d
import numpy as np
import pytest
import scipy.ndimage as ndi
from hypothesis import given, settings
from hypothesis import strategies as st

import patchcore as pc

DTYPES = ["?", "u1", "i1", "<u2", ">u2", "<i2", ">i2", "<u4", "<i4", ">i4", "<u8", "<i8", ">i8", "<f4", ">f8"]
STRUCTURES = {connectivity: ndi.generate_binary_structure(3, n) for n, connectivity in ((1, 6), (2, 18), (3, 26))}


def arranged(array: np.ndarray, order: str) -> np.ndarray:
    """Return the same values in another memory layout."""
    if order == "C":
        return np.ascontiguousarray(array)
    if order == "F":
        return np.asfortranarray(array)
    if order == "middle fastest":
        return np.ascontiguousarray(array.transpose(2, 0, 1)).transpose(1, 2, 0)
    if order == "strided":
        padded = np.zeros([2 * n + 1 for n in array.shape], array.dtype)
        padded[1::2, 1::2, 1::2] = array
        return padded[1::2, 1::2, 1::2]
    if order == "reversed":
        return np.ascontiguousarray(array[::-1, :, ::-1])[::-1, :, ::-1]
    assert order == "unaligned"
    raw = np.zeros(array.nbytes + 1, np.uint8)
    moved = raw[1:].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


ORDERS = ["C", "F", "middle fastest", "strided", "reversed", "unaligned"]


@st.composite
def label_maps(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 90)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density = draw(st.sampled_from([0.0, 0.02, 0.1, 0.3, 0.5, 0.8, 1.0]))
    values = rng.integers(1, draw(st.integers(1, 3)) + 1, shape)
    noise = rng.random(shape)
    if draw(st.booleans()):
        noise = ndi.uniform_filter(noise, 3, mode="nearest")
        noise = (noise.argsort(axis=None).argsort() / noise.size).reshape(shape)
    return np.where(noise < density, values, 0)


def reference_table(label_map: np.ndarray, connectivity: int) -> list[tuple[int, int, tuple, tuple]]:
    rows = []
    for label in np.unique(label_map[label_map != 0]):
        components, count = ndi.label(label_map == label, STRUCTURES[connectivity])
        for number, box in enumerate(ndi.find_objects(components), start=1):
            voxels = np.argwhere(components == number)
            first = np.ravel_multi_index(voxels[0], label_map.shape)
            rows.append((int(first), int(label), len(voxels), tuple((s.start, s.stop) for s in box), voxels.mean(0)))
        assert count == components.max()
    return sorted(rows, key=lambda row: row[0])


@settings(max_examples=150, deadline=None)
@given(label_maps(), st.sampled_from(DTYPES), st.sampled_from(ORDERS), st.sampled_from([6, 18, 26]))
def test_lesions_equal_scipys(values: np.ndarray, dtype: str, order: str, connectivity: int) -> None:
    label_map = arranged(values.astype(dtype), order)
    expected = reference_table(label_map.astype(np.int64), connectivity)
    lesions = pc.measure_lesions(label_map, spacing=(0.5, 1.5, 2.0), connectivity=connectivity)
    assert lesions.label.tolist() == [row[1] for row in expected]
    assert lesions.voxel_count.tolist() == [row[2] for row in expected]
    assert lesions.volume_mm3 == pytest.approx([row[2] * 1.5 for row in expected], rel=1e-12)
    for n, row in enumerate(expected):
        assert tuple(zip(lesions.bbox_start[n], lesions.bbox_stop[n], strict=True)) == row[3]
        np.testing.assert_allclose(lesions.centroid_voxel[n], row[4], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(lesions.centroid_mm[n], row[4] * (0.5, 1.5, 2.0), rtol=1e-12, atol=1e-12)


@settings(max_examples=150, deadline=None)
@given(label_maps(), st.sampled_from(DTYPES), st.sampled_from(ORDERS), st.sampled_from([6, 18, 26]))
def test_label_image_equals_scipys_and_cc3ds(values: np.ndarray, dtype: str, order: str, connectivity: int) -> None:
    mask = arranged((values > 0).astype(dtype), order)
    image = pc.label_components(mask, connectivity=connectivity)
    expected, count = ndi.label(mask.astype(bool), STRUCTURES[connectivity])
    # scipy also numbers components by their first voxel in C order.
    np.testing.assert_array_equal(image, expected)
    assert image.dtype == np.min_scalar_type(count)
    label_map = arranged(values.astype(dtype), order)
    ours = pc.label_components(label_map, connectivity=connectivity)
    peer = cc3d.connected_components(values.astype(dtype).astype(np.uint8), connectivity=connectivity)
    pairs = np.unique(np.stack([ours.ravel(), peer.ravel()]), axis=1)
    assert pairs.shape[1] == len(np.unique(peer)) == len(np.unique(ours))


@settings(max_examples=60, deadline=None)
@given(label_maps(), st.sampled_from([6, 18, 26]), st.permutations([0, 1, 2]), st.tuples(*[st.booleans()] * 3))
def test_moving_the_array_moves_the_lesions(
    values: np.ndarray, connectivity: int, axes: list[int], flips: tuple[bool, bool, bool]
) -> None:
    """Transposing, flipping and padding change only the positions of lesions."""
    spacing = np.array([0.7, 1.1, 3.0])
    before = pc.measure_lesions(values, spacing=spacing, connectivity=connectivity, axial_axis=2)
    moved = np.pad(values.transpose(axes), 1)
    moved = np.flip(moved, [axis for axis in range(3) if flips[axis]])
    after = pc.measure_lesions(moved, spacing=spacing[axes], connectivity=connectivity, axial_axis=axes.index(2))
    assert before.voxel_count.sum() == np.count_nonzero(values)

    def key(lesions: pc.Lesions, order: list[int]) -> list[tuple]:
        columns = (lesions.label, lesions.voxel_count, lesions.longest_axial_diameter_mm.round(9))
        extents = lesions.extent_mm[:, order].round(9)
        return sorted(zip(*(c.tolist() for c in columns), map(tuple, extents.tolist()), strict=True))

    back = [axes.index(axis) for axis in range(3)]
    assert key(after, back) == key(before, [0, 1, 2])
    assert not after.touches_border.any()


@pytest.mark.parametrize(("connectivity", "density"), [(26, 0.1), (26, 0.5), (18, 0.3), (6, 0.4)])
def test_many_slabs_agree_with_cc3d(connectivity: int, density: float) -> None:
    """The mask is large enough for several slabs on several threads."""
    rng = np.random.default_rng(3)
    mask = rng.random((30, 512, 600)) < density
    peer = cc3d.connected_components(mask, connectivity=connectivity)
    counts = cc3d.statistics(peer)["voxel_counts"][1:]
    single = pc.measure_lesions(mask, connectivity=connectivity, threads=1)
    parallel = pc.measure_lesions(np.asfortranarray(mask), connectivity=connectivity, axial_axis=2)
    np.testing.assert_array_equal(np.sort(single.voxel_count), np.sort(counts))
    for name in ("voxel_count", "bbox_start", "centroid_mm", "longest_axial_diameter_mm", "touches_border"):
        np.testing.assert_array_equal(getattr(single, name), getattr(parallel, name))
    ours = pc.label_components(mask, connectivity=connectivity)
    reference, _ = ndi.label(mask, STRUCTURES[connectivity])
    np.testing.assert_array_equal(ours, reference)


@settings(max_examples=60, deadline=None)
@given(label_maps(), st.sampled_from([6, 18, 26]))
def test_spans_rebuild_the_lesions(values: np.ndarray, connectivity: int) -> None:
    from patchcore.lesions.measure import lesion_spans

    spans = lesion_spans(values, connectivity=connectivity)
    image = np.zeros(values.shape, np.int64)
    for lesion, origin, length in zip(spans.lesion, spans.origin, spans.length, strict=True):
        stop = origin.copy()
        stop[spans.axis] += length
        part = tuple(slice(a, max(b, a + 1)) for a, b in zip(origin, stop, strict=True))
        image[part] = lesion + 1
    np.testing.assert_array_equal(image, pc.label_components(values, connectivity=connectivity))
    assert (np.diff(spans.lesion) >= 0).all()
