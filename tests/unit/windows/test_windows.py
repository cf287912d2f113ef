"""Tests buffers, batches and invalid input of window extraction and blending."""

from __future__ import annotations

import multiprocessing
import threading

import numpy as np
import pytest

from patchcore.errors import DataError, UnsupportedDataError, WindowError
from patchcore.windows.blending import WindowBlender, gaussian_importance, window_grid
from patchcore.windows.extract import Windows, extract_windows

VOLUME = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
SIZE = (2, 3, 4)


def test_one_volume_and_one_corner_give_a_batch_of_one():
    windows = extract_windows(VOLUME, (1, 1, 1), SIZE)
    assert isinstance(windows, Windows)
    assert windows.image.dtype == np.float32
    np.testing.assert_array_equal(windows.image, VOLUME[None, 1:3, 1:4, 1:5])
    assert windows.label is None
    assert windows.corners.tolist() == [[1, 1, 1]]


def test_a_batch_takes_each_window_from_its_own_volume():
    other = np.asfortranarray(VOLUME[::-1].astype(np.float64))
    labels = [np.ones(VOLUME.shape, bool), np.full(VOLUME.shape, 255, np.int64)]
    windows = extract_windows([VOLUME, other], [(0, 0, 0), (2, 2, 2)], SIZE, labels=labels)
    np.testing.assert_array_equal(windows.image[0], VOLUME[:2, :3, :4])
    np.testing.assert_array_equal(windows.image[1], other[2:, 2:, 2:])
    assert windows.label.dtype == np.uint8
    assert np.unique(windows.label[0]).tolist() == [1]
    assert np.unique(windows.label[1]).tolist() == [255]


@pytest.mark.parametrize("channel", [(), (1,)])
def test_windows_are_written_into_the_given_buffers(channel):
    out, label_out = np.full((2, *channel, *SIZE), 9, np.float32), np.full((2, *channel, *SIZE), 9, np.uint8)
    corners = [(0, 0, 0), (9, 9, 9)]
    labels = (VOLUME > 60).astype(np.uint8)
    windows = extract_windows(VOLUME, corners, SIZE, hu_range=(0, 64), labels=labels, out=out, label_out=label_out)
    assert windows.image is out
    assert windows.label is label_out
    np.testing.assert_array_equal(out[0].reshape(SIZE), VOLUME[:2, :3, :4] / np.float32(64))
    assert not out[1].any()
    assert not label_out.any()


def test_nan_and_outside_are_the_lower_end_of_the_range():
    volume = np.array([[[np.nan, np.inf, -np.inf, 50]]], dtype=np.float32)
    windows = extract_windows(volume, (0, 0, -1), (1, 1, 6), hu_range=(0, 100))
    assert windows.image.ravel().tolist() == [0, 0, 1, 0, 0.5, 0]


def test_raw_windows_keep_nan_and_take_the_given_padding():
    volume = np.array([[[np.nan, 2]]], dtype=np.float64)
    assert extract_windows(volume, (0, 0, 1), (1, 1, 2), padding=-1024).image.ravel().tolist() == [2, -1024]
    assert np.isnan(extract_windows(volume, (0, 0, 0), (1, 1, 1)).image).all()


def test_a_bool_of_any_byte_is_one():
    label = np.array([0, 1, 2, 255], dtype=np.uint8).reshape(1, 1, 4).view(bool)
    windows = extract_windows(VOLUME[:1, :1, :4], (0, 0, 0), (1, 1, 4), labels=label)
    assert windows.label.ravel().tolist() == [0, 1, 1, 1]


def test_no_corners_give_no_windows():
    windows = extract_windows(VOLUME, np.empty((0, 3), int), SIZE)
    assert windows.image.shape == (0, *SIZE)


def test_a_broadcast_volume_is_read_where_it_is():
    volume = np.broadcast_to(np.arange(6, dtype=np.int16), (4, 5, 6))
    np.testing.assert_array_equal(extract_windows(volume, (1, 1, 1), SIZE).image[0], volume[1:3, 1:4, 1:5])


def test_corners_at_the_ends_of_int64_are_all_padding():
    corners = [(np.iinfo(np.int64).min,) * 3, (np.iinfo(np.int64).max,) * 3]
    for volume in (VOLUME, VOLUME.astype(">i2")):
        assert (extract_windows(volume, corners, SIZE, padding=3).image == 3).all()


def test_threads_that_share_volumes_get_their_own_windows():
    volume = np.random.default_rng(0).integers(-1000, 1000, (60, 60, 60)).astype(np.int16)
    results: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        for _ in range(20):
            results[number] = extract_windows(volume, [(number, 0, 0)] * 2, (32, 32, 32)).image

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        np.testing.assert_array_equal(results[number][1], volume[number : number + 32, :32, :32])


def _sum_of_windows() -> float:
    return float(extract_windows(VOLUME, [(0, 0, 0)] * 8, SIZE).image.sum())


def test_a_forked_worker_extracts_windows_too():
    """A forked process, such as a DataLoader worker, does not have the threads of its parent."""
    expected = _sum_of_windows()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_sum_of_windows).get(timeout=30) == expected


def read_only() -> np.ndarray:
    out = np.zeros((1, *SIZE), np.float32)
    out.flags.writeable = False
    return out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"out": read_only()}, "read-only"),
        ({"out": np.zeros((1, *SIZE))}, "dtype float64"),
        ({"out": np.zeros((1, *SIZE[::-1]), np.float32).T.reshape(1, *SIZE, order="F")}, "not C-contiguous"),
        ({"out": np.zeros((2, *SIZE), np.float32)}, r"shape \(2, 2, 3, 4\)"),
        ({"out": [0.0]}, "out is a list"),
        ({"labels": VOLUME, "label_out": np.zeros((1, *SIZE), np.int8)}, "label_out: dtype int8"),
        ({"label_out": np.zeros((1, *SIZE), np.uint8)}, "label_out given without labels"),
        ({"labels": VOLUME[1:]}, "does not match image"),
        ({"hu_range": (3, 3)}, "hu_range is"),
        ({"hu_range": (0, np.inf)}, "hu_range is"),
        ({"hu_range": (0, 1, 2)}, "hu_range is"),
        ({"hu_range": (0, 1), "padding": 0}, "padding given with hu_range"),
        ({"corners": (0.0, 0.0, 0.0)}, "corners are float64"),
        ({"corners": [(0, 0)]}, r"shape \(1, 2\)"),
        ({"volumes": [VOLUME, VOLUME]}, "2 volumes for 1 corners"),
        ({"window_size": (2, 3)}, "window_size is"),
        ({"window_size": (2, 0, 3)}, "window_size is"),
        ({"window_size": (2, 1.5, 3)}, "window_size is"),
    ],
)
def test_what_does_not_fit_is_reported(arguments, part):
    given = {"volumes": VOLUME, "corners": (0, 0, 0), "window_size": SIZE} | arguments
    with pytest.raises(WindowError, match=part):
        extract_windows(given.pop("volumes"), given.pop("corners"), given.pop("window_size"), **given)


@pytest.mark.parametrize(
    ("volume", "labels", "part"),
    [
        (VOLUME[0], None, "three axes"),
        (VOLUME[None], None, "three axes"),
        (VOLUME.astype(complex), None, "complex128"),
        (VOLUME.astype(str), None, "an image of dtype"),
        (VOLUME, VOLUME.astype(float), "a label map of dtype float64"),
        (VOLUME, VOLUME.astype(np.int32) - 50, "label -50 at"),
        (VOLUME, VOLUME.astype(">u4") + 200, "does not fit into uint8"),
    ],
)
def test_what_cannot_be_read_is_reported(volume, labels, part):
    with pytest.raises(UnsupportedDataError) as caught:
        extract_windows(volume, (0, 0, 0), (4, 5, 6), labels=labels)
    assert part in f"{caught.value} {caught.value.expected}"


def test_buffers_that_overlap_are_refused():
    memory = np.zeros(24 * 4, np.uint8)
    out = memory.view(np.float32).reshape(1, *SIZE)
    with pytest.raises(WindowError, match="overlaps"):
        extract_windows(out[0], (0, 0, 0), SIZE, out=out)
    with pytest.raises(WindowError, match="overlaps"):
        extract_windows(VOLUME, (0, 0, 0), SIZE, labels=VOLUME, out=out, label_out=memory[:24].reshape(1, *SIZE))


def test_threads_below_one_are_refused():
    with pytest.raises(DataError, match="threads"):
        extract_windows(VOLUME, (0, 0, 0), SIZE, threads=0)


def test_grid_pads_small_axes_evenly():
    assert window_grid((3, 96, 100), (8, 96, 96)).tolist() == [[-2, 0, 0], [-2, 0, 4]]


@pytest.mark.parametrize(
    ("shape", "size", "overlap"),
    [((4, 4, 4), (4, 4, 4), 1.0), ((4, 4, 0), (4, 4, 4), 0.5), ((4, 4, 4), (4, 4, 4), (0.5, 0.5))],
)
def test_impossible_grids_are_refused(shape, size, overlap):
    with pytest.raises(WindowError):
        window_grid(shape, size, overlap=overlap)


def test_importance_is_highest_in_the_middle_and_symmetric():
    weights = gaussian_importance((9, 6, 5))
    assert weights.shape == (9, 6, 5)
    assert weights.max() == weights[4, 2, 2] == weights[4, 3, 2]
    np.testing.assert_array_equal(weights, weights[::-1, ::-1, ::-1])
    assert weights.min() == np.float32(1e-3)
    with pytest.raises(WindowError):
        gaussian_importance((4, 4, 4), sigma=0)


def test_blend_weighs_by_importance():
    blender = WindowBlender((3, 1, 1), 1, (2, 1, 1), sigma=(0.3, 1, 1))
    weights = gaussian_importance((2, 1, 1), sigma=(0.3, 1, 1)).ravel()
    blender.add((0, 0, 0), np.full((1, 1, 2, 1, 1), 1.0))
    blender.add([(1, 0, 0)], np.full((1, 1, 2, 1, 1), 4.0))
    middle = (weights[1] * 1 + weights[0] * 4) / weights.sum()
    np.testing.assert_allclose(blender.result().ravel(), [1, middle, 4], rtol=1e-6)


def test_blend_refuses_gaps_wrong_shapes_and_late_windows():
    blender = WindowBlender((4, 4, 4), 2, (4, 4, 2))
    blender.add((0, 0, 0), np.ones((1, 2, 4, 4, 2)))
    with pytest.raises(WindowError, match="32 of 64 voxels"):
        blender.result()
    with pytest.raises(WindowError, match="predictions of shape"):
        blender.add((0, 0, 2), np.ones((1, 1, 4, 4, 2)))
    blender.add((0, 0, 2), np.ones((1, 2, 4, 4, 2)))
    result = blender.result()
    assert blender.result() is result
    with pytest.raises(WindowError, match="taken already"):
        blender.add((0, 0, 0), np.ones((1, 2, 4, 4, 2)))
    with pytest.raises(WindowError, match="channels is 0"):
        WindowBlender((4, 4, 4), 0, (4, 4, 4))
