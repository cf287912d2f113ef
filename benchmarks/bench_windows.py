"""Compare window extraction from volumes in memory with NumPy, and grid and blending with MONAI's sliding window.

Times are medians over random corners. The sides alternate. Each side has its own corners; otherwise the first side
would load the window into the cache for the second side. Buffers are allocated before the measurement.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.windows.blending import WindowBlender, gaussian_importance, window_grid
from patchcore.windows.extract import extract_windows

WINDOW = (96, 96, 96)
HU_RANGE = (-200.0, 300.0)
REPEATS = 60
Array = npt.NDArray[Any]


def _medians(*sides: Callable[[int], object], repeats: int) -> list[float]:
    """Return the median seconds of each side.

    The sides alternate, so that a change of the machine's speed affects all sides. At the end each side repeats number
    0.
    """
    times = np.empty((len(sides), repeats))
    for repeat in range(repeats):
        for number, side in enumerate(sides):
            start = time.perf_counter()
            side(repeat * len(sides) + number)
            times[number, repeat] = time.perf_counter() - start
    for side in sides:
        side(0)
    return [float(median) for median in np.median(times, axis=1)]


def _row(
    what: str, bar: str, ours: float, peer: str, peer_s: float, wanted: float | None, equal: bool
) -> dict[str, Any]:
    return {
        "bar": "",
        "what": what,
        "ours_s": ours,
        "peer": peer,
        "peer_s": peer_s,
        "ratio": peer_s / ours,
        "wanted": wanted,
        "equal": equal,
    }


def _corners(shape: tuple[int, ...], count: int) -> npt.NDArray[np.int64]:
    rng = np.random.default_rng(0)
    return rng.integers(0, np.subtract(shape, WINDOW) + 1, (count, 3))


def _part(volume: Array, corner: npt.NDArray[np.int64]) -> Array:
    return volume[tuple(slice(c, c + w) for c, w in zip(corner, WINDOW, strict=True))]


def _extraction(volume: Array, what: str, wanted: float | None, bar: str) -> dict[str, Any]:
    corners = _corners(volume.shape, 2 * REPEATS)
    low, high = HU_RANGE
    ours, theirs = np.empty((1, *WINDOW), np.float32), np.empty(WINDOW, np.float32)

    def patchcore(index: int) -> None:
        extract_windows(volume, corners[index : index + 1], WINDOW, hu_range=HU_RANGE, out=ours, threads=1)

    def numpy(index: int) -> None:
        np.clip(_part(volume, corners[index]), low, high, out=theirs, dtype=np.float32, casting="unsafe")
        np.subtract(theirs, np.float32(low), out=theirs)
        np.multiply(theirs, np.float32(1 / (high - low)), out=theirs)

    ours_s, peer_s = _medians(patchcore, numpy, repeats=REPEATS)
    equal = bool(np.allclose(ours[0], theirs, rtol=0, atol=2e-7))
    return _row(what, bar, ours_s, "numpy clip, subtract, multiply", peer_s, wanted, equal)


def _labels(volume: Array, labels: Array) -> dict[str, Any]:
    corners = _corners(labels.shape, 3 * REPEATS)
    image, label, theirs = (
        np.empty((1, *WINDOW), np.float32),
        np.empty((1, *WINDOW), np.uint8),
        np.empty(WINDOW, np.uint8),
    )

    def without(index: int) -> None:
        extract_windows(volume, corners[index : index + 1], WINDOW, hu_range=HU_RANGE, out=image, threads=1)

    def both(index: int) -> None:
        extract_windows(
            volume,
            corners[index : index + 1],
            WINDOW,
            hu_range=HU_RANGE,
            labels=labels,
            out=image,
            label_out=label,
            threads=1,
        )

    def numpy(index: int) -> None:
        np.copyto(theirs, _part(labels, corners[index]), casting="unsafe")

    without_s, both_s, peer_s = _medians(without, both, numpy, repeats=REPEATS)
    equal = bool(np.array_equal(label[0], theirs))
    return _row(
        "additional time for the uint8 label",
        "windows: labels",
        both_s - without_s,
        "numpy copyto",
        peer_s,
        None,
        equal,
    )


def _threads(volume: Array) -> dict[str, Any]:
    corners = _corners(volume.shape, 2 * REPEATS + 4)
    outs = {threads: np.empty((4, *WINDOW), np.float32) for threads in (1, 2)}

    def run(threads: int) -> Callable[[int], object]:
        return lambda index: extract_windows(
            volume, corners[index : index + 4], WINDOW, hu_range=HU_RANGE, out=outs[threads], threads=threads
        )

    two, one = _medians(run(2), run(1), repeats=REPEATS)
    equal = bool(np.array_equal(outs[1], outs[2]))
    # For information: a single core almost reaches the memory bandwidth, and nothing has to be decoded here.
    return _row("batch of 4, two threads", "windows: two threads", two, "one thread", one, None, equal)


def _sliding_window() -> list[dict[str, Any]]:
    import torch
    from monai.data.utils import compute_importance_map, dense_patch_slices
    from monai.inferers import sliding_window_inference

    shape, window, classes = (160, 160, 120), (96, 96, 96), 3
    volume = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    weights = compute_importance_map(window, mode="gaussian", sigma_scale=0.125).numpy()
    slices = dense_patch_slices(shape, window, tuple(edge // 2 for edge in window))
    grid = window_grid(shape, window)
    same = np.array_equal(grid, [[part.start for part in place] for place in slices])
    same = same and bool(np.allclose(gaussian_importance(window), weights, rtol=1e-5, atol=0))
    results: dict[str, Array] = {}

    def patchcore(_: int) -> None:
        blender = WindowBlender(shape, classes, window, threads=1)
        for corner in grid:
            image = extract_windows(volume, corner, window, threads=1).image
            blender.add(corner, np.stack([image, 2 * image, image + 1], axis=1))
        results["ours"] = blender.result()

    def monai(_: int) -> None:
        results["peer"] = sliding_window_inference(
            torch.from_numpy(volume)[None, None],
            window,
            1,
            lambda image: torch.cat([image, 2 * image, image + 1], dim=1),
            overlap=0.5,
            mode="gaussian",
            sigma_scale=0.125,
        )[0].numpy()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours_s, peer_s = _medians(patchcore, monai, repeats=3)
    finally:
        torch.set_num_threads(threads)
    same = same and bool(np.allclose(results["ours"], results["peer"], rtol=0, atol=1e-5))
    what = "whole volume by sliding window, 3 classes, no network"
    return [_row(what, "windows: blend", ours_s, "MONAI sliding_window_inference", peer_s, None, same)]


def run() -> list[dict[str, Any]]:
    """Return one row per measurement: `equal` results on both sides, and the `ratio` of the peer's time to our time."""
    rng = np.random.default_rng(0)
    volume = rng.integers(-1024, 2000, (256, 256, 256), dtype=np.int16)
    labels = (volume > 1500).astype(np.uint8)
    plain = "96^3 window of int16, one thread, "
    return [
        _extraction(volume, plain + "C order", 1.5, "windows: C order"),
        _extraction(np.asfortranarray(volume), plain + "Fortran order", 1.5, "windows: Fortran order"),
        _extraction(volume[::-1, ::-1, ::-1], plain + "all axes backwards", None, "windows: flipped"),
        _extraction(volume.astype(np.float32), "96^3 window of float32, one thread", None, "windows: float32"),
        _labels(volume, labels),
        _threads(volume),
        *_sliding_window(),
    ]
