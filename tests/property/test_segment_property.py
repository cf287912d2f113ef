"""Segmenting a scan window by window equals blending whole volumes and interpolating them with scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linear_reference import interpolate
from patchcore import _core
from patchcore.errors import ConfigError, DataError, WindowError
from patchcore.inference.segment import AIR_BELOW_HU, WindowModel, air_windows, segment
from patchcore.resampling.grid import Grid
from patchcore.types import Float32Array
from patchcore.windows.blending import WindowBlender, gaussian_importance, window_grid
from patchcore.windows.extract import extract_windows
from tiny_plan import tiny_target

Edges = st.tuples(*[st.integers(1, 3)] * 3)
Spacings = st.tuples(*[st.sampled_from([0.7, 1.0, 1.6, 2.5])] * 3)


def fake(channels: int, weight: float) -> Any:
    """A network without weights: probabilities that depend on the place within the window, too."""

    def probabilities(windows: Float32Array) -> Float32Array:
        depth = np.linspace(0, 1, windows.shape[1], dtype=np.float32)[:, None, None]
        rows = [np.exp(weight * np.sin((index + 1) * (windows + 0.3 * depth))) for index in range(channels)]
        found = np.stack(rows, axis=1)
        return np.asarray(found / found.sum(1, keepdims=True), dtype=np.float32)

    return probabilities


def whole(model: WindowModel, image: Any, grid: Grid) -> Float32Array:
    """Blend a whole volume on the training grid and interpolate every channel to the scan's grid."""
    target = model.target
    scan = grid.resample(image)
    blender = WindowBlender(scan.shape, 1 + len(target.classes), target.window_size)
    for corner in window_grid(scan.shape, target.window_size, overlap=model.overlap):
        window = extract_windows(scan, [corner], target.window_size, hu_range=target.hu_range).image
        blender.add([corner], model.probabilities(window))
    a, b, c = grid.ratio
    return np.stack([interpolate(one, (1 / a, 1 / b, 1 / c), grid.canonical_shape) for one in blender.result()])


def random_scan(seed: int, shape: Any) -> Any:
    return np.random.default_rng(seed).integers(-200, 300, shape).astype(np.int16)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 17)] * 3),
    spacing=Spacings,
    training=Spacings,
    edges=Edges,
    axes=st.permutations([0, 1, 2]),
    flips=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    classes=st.integers(1, 3),
    overlap=st.sampled_from([0.0, 0.3, 0.5, 0.75]),
    batch=st.integers(1, 5),
    threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 99),
)
def test_it_equals_the_whole_volume(
    shape: Any,
    spacing: Any,
    training: Any,
    edges: Any,
    axes: Any,
    flips: Any,
    classes: int,
    overlap: float,
    batch: int,
    threads: int,
    seed: int,
) -> None:
    affine = np.zeros((4, 4))
    for column, row in enumerate(axes):
        affine[row, column] = flips[column] * spacing[column]
    affine[:, 3] = [3, -5, 7, 1]
    target = tiny_target(classes=classes, spacing=training, window=tuple(4 * edge for edge in edges))
    model = WindowModel(target, fake(classes + 1, 3.0), batch, overlap)
    image = random_scan(seed, shape)
    found = segment([model], image, affine, keep_probability=True, threads=threads)
    grid = Grid.of(shape, affine, training)
    expected = whole(model, image, grid)
    margin = np.sort(expected, axis=0)
    clear = grid.stored((margin[-1] - margin[-2]) > 1e-5)
    np.testing.assert_array_equal(found.classes[clear], grid.stored(expected.argmax(0))[clear])
    assert clear.mean() > 0.9
    lesion = grid.stored(expected[classes])
    assert found.lesion_probability is not None
    np.testing.assert_allclose(found.lesion_probability / 65535, lesion, atol=2e-5)
    assert found.windows == len(window_grid(grid.shape, target.window_size, overlap=overlap))


@pytest.mark.parametrize("threads", [1, 2])
def test_models_of_other_windows_and_spacings_are_averaged(threads: int) -> None:
    shape, affine = (23, 19, 15), np.diag([-1.0, 1.0, 2.0, 1.0])
    image = random_scan(1, shape)
    models = [
        WindowModel(tiny_target(spacing=(1, 1, 2), window=(8, 8, 4)), fake(3, 3.0), 3),
        WindowModel(tiny_target(spacing=(2, 2, 2), window=(4, 12, 8)), fake(3, -2.0), 2, 0.25, networks=2),
        WindowModel(tiny_target(spacing=(0.7, 3, 2.5), window=(16, 4, 4)), fake(3, 1.0), 1),
    ]
    grids = [Grid.of(shape, affine, model.target.spacing) for model in models]
    parts = [whole(model, image, grid) for model, grid in zip(models, grids, strict=True)]
    expected = (parts[0] + 2 * parts[1] + parts[2]) / 4
    found = segment(models, image, affine, threads=threads)
    margin = np.sort(expected, axis=0)
    clear = grids[0].stored((margin[-1] - margin[-2]) > 1e-5)
    np.testing.assert_array_equal(found.classes[clear], grids[0].stored(expected.argmax(0))[clear])
    assert clear.mean() > 0.98
    assert len(np.unique(found.classes)) == 3


def test_threshold_and_regions() -> None:
    shape, affine = (20, 16, 12), np.eye(4)
    image = random_scan(2, shape)
    target = tiny_target(spacing=(1, 1, 1), window=(8, 8, 8))
    model = WindowModel(target, fake(3, 2.0))
    expected = whole(model, image, Grid.of(shape, affine, (1, 1, 1)))
    for threshold in (0.2, 0.6):
        found = segment([model], image, affine, threshold=threshold).classes
        others = expected[:2].argmax(0)
        clear = np.abs(expected[2] - threshold) > 1e-5
        np.testing.assert_array_equal(found[clear], np.where(expected[2] > threshold, 2, others)[clear])
    regions = tiny_target(spacing=(1, 1, 1), window=(8, 8, 8), regions=True)
    model = WindowModel(regions, model.probabilities)
    for given_threshold, least in ((None, 0.5), (0.3, 0.3)):
        found = segment([model], image, affine, threshold=given_threshold).classes
        painted = np.where(expected[1] + expected[2] > 0.5, 1, 0)
        painted = np.where(expected[2] > least, 2, painted)
        clear = (np.abs(expected[1] + expected[2] - 0.5) > 1e-5) & (np.abs(expected[2] - least) > 1e-5)
        np.testing.assert_array_equal(found[clear], painted[clear])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), training=Spacings, overlap=st.sampled_from([0.0, 0.5, 0.75]))
def test_air_is_skipped_without_changing_a_label_in_the_body(seed: int, training: Any, overlap: float) -> None:
    random = np.random.default_rng(seed)
    shape = tuple(int(edge) for edge in random.integers(10, 40, 3))
    image = np.full(shape, -1000, np.int16)
    low = [int(random.integers(0, edge)) for edge in shape]
    body = tuple(slice(a, a + int(random.integers(1, 12))) for a in low)
    image[body] = random.integers(0, 200, image[body].shape)
    target = tiny_target(spacing=training, window=(8, 4, 8))
    model = WindowModel(target, fake(3, 3.0), 2, overlap)
    affine = np.diag([1.0, -1.0, 1.6, 1.0])
    plain, skipped = (segment([model], image, affine, skip_air=skip) for skip in (False, True))
    inside = image > AIR_BELOW_HU
    np.testing.assert_array_equal(plain.classes[inside], skipped.classes[inside])
    assert skipped.windows == plain.windows
    assert plain.air_windows == 0


def test_air_windows_are_background() -> None:
    image = np.full((40, 8, 8), -1000, np.int16)
    image[:8] = 50
    model = WindowModel(tiny_target(spacing=(1, 1, 1), window=(8, 8, 8)), fake(3, 3.0), overlap=0.0)
    found = segment([model], image, np.eye(4), skip_air=True)
    assert (found.windows, found.air_windows) == (5, 3)  # the second window is within two voxels of the body
    assert not found.classes[16:].any()
    corners = window_grid(image.shape, (8, 8, 8), overlap=0.0)
    assert air_windows(image, corners, (8, 8, 8)).tolist() == [False, False, True, True, True]


def test_models_of_other_classes_cannot_be_averaged() -> None:
    models = [WindowModel(tiny_target(classes=count), fake(count + 1, 1.0)) for count in (1, 2)]
    with pytest.raises(ConfigError, match=r"differ in classes: \(1,\) and \(1, 2\)"):
        segment(models, np.zeros((4, 4, 4), np.int16), np.eye(4))


def stream(**changes: Any) -> Any:
    options: dict[str, Any] = {"rule": (None, None, []), "keep_probability": False, "threads": 1}
    importance = gaussian_importance((4, 4, 4)).reshape(-1)
    model = ((8, 4, 4), (4, 4, 4), (1.0, 1.0, 1.0), importance, 1.0)
    return _core.LabelStream(2, (8, 4, 4), [model], **(options | changes))


def test_the_core_refuses_what_does_not_fit() -> None:
    one = np.zeros(2 * 64, np.float32)
    made = stream()
    made.add(0, np.array([[0, 0, 0], [4, 0, 0]]), np.zeros(2 * len(one), np.float32))
    with pytest.raises(WindowError, match="planes below 4 are final"):
        made.add(0, np.array([[0, 0, 0]]), one)
    with pytest.raises(WindowError, match="predictions has"):
        stream().add(0, np.array([[0, 0, 0]]), one[:-2])
    with pytest.raises(DataError, match="model 1 of 1"):
        stream().add(1, np.array([[0, 0, 0]]), one)
    uncovered = stream()
    uncovered.add(0, np.array([[0, 0, 0]]), one)
    with pytest.raises(WindowError, match="covered by no window"):
        uncovered.finish()
    with pytest.raises(WindowError, match="taken already"):
        uncovered.finish()
    for rule in ((None, (2, 0.5), []), ([(1, [2])], None, []), (None, None, [5])):
        with pytest.raises(DataError, match="only their numbers in the rule"):
            stream(rule=rule)
    values = np.zeros(2 * 8, np.float32)
    fits = {"shape": (2, 2, 2, 2), "out_shape": (2, 2, 2), "ratio": (1.0, 1.0, 1.0), "threads": 1}
    with pytest.raises(DataError, match="expected one each"):
        _core.choose_classes(values[:-1], rule=(None, None, []), **fits)
    with pytest.raises(DataError, match="only their numbers"):
        _core.choose_classes(values, rule=([(1, [7])], None, []), **fits)
