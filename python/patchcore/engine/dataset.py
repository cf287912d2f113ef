"""The cases of a training in memory, within bounds: what fits stays, the rest is read again when it is drawn."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from patchcore.engine.cache import CachedCase

__all__ = ["CaseMemory", "Volumes", "default_budget"]

Volumes: TypeAlias = tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]


def default_budget() -> int:
    """Return how many bytes of volumes are kept by default: half of the memory that is free now."""
    import psutil

    return int(psutil.virtual_memory().available) // 2


class CaseMemory:
    """Images and class indices of cases, kept in memory up to a budget, the least recently used dropped first.

    Safe to use from several threads.

    Args:
        cases: The cases.
        budget: Bytes to keep; default: :func:`default_budget`.
    """

    def __init__(self, cases: Sequence[CachedCase], *, budget: int | None = None) -> None:
        self.cases = tuple(cases)
        self._budget = default_budget() if budget is None else budget
        self._kept: OrderedDict[int, Volumes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Volumes:
        """Return image (int16 HU) and class indices (uint8) of a case, both of its shape on the training grid.

        Raises:
            CorruptFileError: The cache is damaged; the case is named.
        """
        with self._lock:
            if index in self._kept:
                self._kept.move_to_end(index)
                return self._kept[index]
            case = self.cases[index]
            volumes = (case.image(), case.label())
            size = _bytes(volumes)
            while self._kept and self._bytes + size > self._budget:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= _bytes(dropped)
            if size <= self._budget:
                self._kept[index] = volumes
                self._bytes += size
            return volumes


def _bytes(volumes: tuple[npt.NDArray[Any], npt.NDArray[Any]]) -> int:
    return sum(volume.nbytes for volume in volumes)
