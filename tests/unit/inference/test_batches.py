"""Which windows of a scan go through the network together."""

from __future__ import annotations

from typing import Any

import numpy as np

from patchcore.inference.segment import _Part, air_windows


class FakeModel:
    batch = 2


def test_a_batch_has_at_most_as_many_windows_as_the_model_takes() -> None:
    air = np.array([True, True, True, False, False, False, False, False, True])
    anything: Any = None
    model: Any = FakeModel()
    part = _Part(model, anything, np.zeros((len(air), 3), np.int64), air, anything)
    batches = []
    while part.done < len(air):
        batches.append(part.next_batch())
    assert [(one.start, one.stop) for one in batches] == [(0, 3), (3, 5), (5, 7), (7, 8), (8, 9)]


def test_the_voxels_of_the_scan_that_a_window_covers_are_rounded_outwards() -> None:
    # Two voxels of the scan for three of the training grid: the window with its margin begins at 5 × 2 / 3 = 3.3.
    image = np.full((30, 4, 4), -1000, np.int16)
    image[3] = 40
    corners = np.array([[7, 0, 0]])
    assert air_windows(image, corners, (8, 4, 4), ratio=(2 / 3, 1, 1)).tolist() == [False]
    image[3], image[2] = -1000, 40
    assert air_windows(image, corners, (8, 4, 4), ratio=(2 / 3, 1, 1)).tolist() == [True]
