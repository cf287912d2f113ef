"""Which windows of a scan go through the network together."""

from __future__ import annotations

from typing import Any

import numpy as np

from patchcore.inference.segment import _Part


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
