"""Streaming into a store gives the same result as whole arrays in memory, for every orientation, dtype and crop."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from lost_lesions import keep_lost_lesions, overlapping
from patchcore.lesions.measure import lesion_spans
from patchcore.resampling.grid import Grid
from patchcore.resampling.image import resample_class_indices
from patchcore.store import StoredArray
from patchcore.store.case import Placed

PERMUTATIONS = list(itertools.permutations(range(3)))


def affine_of(permutation: tuple[int, ...], signs: tuple[int, ...], spacing: tuple[float, ...]) -> Any:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for stored, world in enumerate(permutation):
        affine[world, stored] = signs[stored] * spacing[stored]
    return affine


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    permutation=st.sampled_from(PERMUTATIONS),
    signs=st.tuples(*[st.sampled_from((-1, 1))] * 3),
    spacing=st.tuples(*[st.sampled_from((0.7, 1.0, 4.0))] * 3),
    new=st.tuples(*[st.sampled_from((0.8, 1.0, 2.5))] * 3),
    kernel=st.sampled_from(("cubic", "linear")),
    antialias=st.booleans(),
    dtype=st.sampled_from(("<i2", ">i2", "<f4", "u1")),
    source=st.sampled_from(("file", "gzip", "array", "c-order array")),
    crop=st.tuples(*[st.floats(0, 1)] * 6),
    seed=st.integers(0, 999),
)
def test_streamed_is_whole(
    shape: Any, permutation: Any, signs: Any, spacing: Any, new: Any, kernel: Any, antialias: bool, dtype: str,
    source: str, crop: Any, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 200, shape).astype(dtype)
    label = (rng.random(shape) < 0.02).astype(np.uint8) * rng.integers(1, 4, shape).astype(np.uint8)
    label[: shape[0] // 2, : shape[1] // 2, : shape[2] // 2] = 2
    affine = affine_of(permutation, signs, spacing)
    grid = Grid.of(shape, affine, new)
    start = tuple(int(crop[n] * grid.shape[n]) if crop[n] < 1 else grid.shape[n] - 1 for n in range(3))
    stop = tuple(max(a + 1, n - int(c * (n - a))) for a, n, c in zip(start, grid.shape, crop[3:], strict=True))
    part = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))

    whole = grid.resample(image, kernel=kernel, antialias=antialias)
    indices = np.select([label == 2, label == 3], [1, 2], 0).astype(np.uint8)
    new_spacing = tuple(a * b for a, b in zip(grid.canonical_spacing, grid.ratio, strict=True))
    expected = resample_class_indices(grid.canonical(indices), grid.canonical_spacing, new_spacing, shape=grid.shape)
    kept = keep_lost_lesions(expected, grid.canonical(indices), 1, grid.ratio)

    placed = Placed(grid, start, stop, kernel, antialias)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given: list[Any] = [image, label]
        if source == "array":
            given = [np.asfortranarray(array) for array in given]
        elif source != "c-order array":
            suffix = ".nii.gz" if source == "gzip" else ".nii"
            for number, array in enumerate(given):
                nifti = nibabel.Nifti1Image(array, affine)
                if array.dtype.byteorder == ">":
                    nifti = nibabel.Nifti1Image(array, affine, nibabel.Nifti1Header(endianness=">"))
                    nifti.set_data_dtype(array.dtype)
                nibabel.save(nifti, folder / f"{number}{suffix}")
            given = [folder / f"{number}{suffix}" for number in range(2)]
        placed.write_image(given[0], folder / "image")
        found = placed.write_labels(
            given[1], folder / "label", classes=(2, 3), lesion_label=2, connectivity=26, voxel_mm3=1.0
        )
        # The sums are computed in another order, so a half may round the other way.
        difference = np.abs(StoredArray(folder / "image").read().astype(int) - whole[part])
        assert difference.max() <= 1
        assert (difference > 0).sum() <= 2 + 0.02 * difference.size
        written = StoredArray(folder / "label").read()
        # A lesion with all voxels outside the part gets one voxel inside it, like a lesion that vanishes.
        differs = written != expected[part]
        assert differs.sum() <= found.kept_lesions
        assert (written[differs] == 1).all()
        if part == tuple(slice(0, n) for n in grid.shape):
            assert found.kept_lesions == kept
            assert not differs.any()
        assert found.class_voxels == tuple(int((written == n).sum()) for n in (1, 2))
        spans = lesion_spans(written, labels=[1])
        np.testing.assert_array_equal(found.spans.voxel_count, spans.voxel_count)
        painted = np.zeros(written.shape, np.uint8)
        for origin, length in zip(found.spans.origin, found.spans.length, strict=True):
            stretch = [slice(at, at + 1) for at in origin]
            stretch[found.spans.axis] = slice(origin[found.spans.axis], origin[found.spans.axis] + length)
            painted[tuple(stretch)] += 1
        np.testing.assert_array_equal(painted, written == 1)


def _random_lesions(rng: np.random.Generator, shape: tuple[int, int, int]) -> Any:
    """Lesions of one voxel, two voxels, lines, plates with holes and blobs, most of them apart."""
    label = np.zeros(shape, np.uint8)
    for _ in range(60):
        kind = rng.integers(5)
        size = {0: (1, 1, 1), 1: (1, 1, 2), 2: (1, 1, 9), 3: (1, 6, 6), 4: (3, 3, 2)}[int(kind)]
        size = tuple(rng.permutation(size))
        corner = [int(rng.integers(0, n - s + 1)) for n, s in zip(shape, size, strict=True)]
        part = tuple(slice(a, a + s) for a, s in zip(corner, size, strict=True))
        block = np.ones(size, np.uint8)
        if kind == 3:
            block &= (rng.random(size) < 0.7).astype(np.uint8)
        label[part] |= block
    return label


def _check_that_all_lesions_are_shown(seed: int) -> int:
    """Prepare one random label map at random spacings; return its number of lesions."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(14, 48, 3))
    label = _random_lesions(rng, shape)  # type: ignore[arg-type]
    spacing = rng.uniform(0.5, 5, 3)
    ratio = rng.choice([rng.uniform(0.4, 3, 3), rng.choice([0.5, 1.0, 2.0], 3)])
    affine = affine_of(tuple(rng.permutation(3)), tuple(rng.choice([-1, 1], 3)), tuple(spacing))
    canonical = Grid.of(shape, affine, (1.0, 1.0, 1.0)).canonical_spacing
    grid = Grid.of(shape, affine, tuple(float(a * b) for a, b in zip(canonical, ratio, strict=True)))
    placed = Placed(grid, (0, 0, 0), grid.shape)
    with tempfile.TemporaryDirectory() as name:
        source = np.asfortranarray(label) if seed % 2 else label
        found = placed.write_labels(
            source, Path(name) / "label", classes=(1,), lesion_label=1, connectivity=26, voxel_mm3=1.0
        )
        written = StoredArray(Path(name) / "label").read()
    old = grid.canonical(label)
    components, count = ndimage.label(old, np.ones((3, 3, 3)))
    shown = np.zeros(count + 1, bool)
    for voxel in np.argwhere(old):
        number = components[tuple(voxel)]
        if not shown[number]:
            shown[number] = bool((written[overlapping(voxel, grid.ratio, grid.shape)] == 1).any())
    assert shown[1:].all(), f"seed {seed}: {count - shown[1:].sum()} of {count} lesions are gone"
    assert found.kept_lesions <= count
    return int(count)


@pytest.mark.parametrize("lesions", [1000, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])])
def test_every_lesion_is_on_the_training_grid(lesions: int) -> None:
    seed = done = 0
    while done < lesions:
        done += _check_that_all_lesions_are_shown(seed)
        seed += 1


def test_lesions_that_a_finer_grid_lost_before() -> None:
    """0.8 × 0.8 × 2.5 mm → 0.7 × 0.7 × 2.0 mm: half of the one-voxel lesions had a larger share of background."""
    label = np.zeros((60, 60, 21), np.uint8)
    label[1::6, 1::6, 1::3] = 1
    label[3::12, 3::12, 1::6] = 1
    affine = np.diag([0.8, 0.8, 2.5, 1.0])
    grid = Grid.of(label.shape, affine, (0.7, 0.7, 2.0))
    with tempfile.TemporaryDirectory() as name:
        found = Placed(grid, (0, 0, 0), grid.shape).write_labels(
            label, Path(name) / "label", classes=(1,), lesion_label=1, connectivity=6, voxel_mm3=1.6, min_volume_mm3=1.0
        )
    _, count = ndimage.label(label)
    assert found.spans.lesion_count == count
    assert found.kept_lesions > count // 4
    assert found.is_lesion.all()


def test_the_old_grid_decides_what_is_a_speck() -> None:
    """A lesion just above the limit stays one although it is smaller on the new grid; specks that grow stay specks."""
    label = np.zeros((40, 40, 40), np.uint8)
    label[5:7, 5:7, 5] = 1  # 4 mm³, the limit
    label[20, 20, 20] = label[30, 30, 30] = 1  # specks
    affine = np.eye(4)
    for spacing in ((1.4, 1.4, 1.4), (0.6, 0.6, 0.6), (1.0, 1.0, 1.0)):
        grid = Grid.of(label.shape, affine, spacing)
        with tempfile.TemporaryDirectory() as name:
            found = Placed(grid, (0, 0, 0), grid.shape).write_labels(
                label,
                Path(name) / "l",
                classes=(1,),
                lesion_label=1,
                connectivity=26,
                voxel_mm3=1.0,
                min_volume_mm3=4.0,
            )
        assert found.is_lesion.sum() == 1
        kept = found.spans.origin[np.isin(found.spans.lesion, np.flatnonzero(found.is_lesion))]
        assert np.abs(kept * np.asarray(spacing) - 5.5).max() < 2
