"""The row that every benchmark reports, and functions to time two sides."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["Row", "data_folder", "in_turns"]


@dataclass(frozen=True)
class Row:
    """One comparison with a peer.

    Attributes:
        bar: The bar (requirement) of the comparison; empty if it is for information only.
        what: The task and its data.
        ours_s: Time of patchcore [s].
        peer: Name of the peer.
        peer_s: Time of the peer [s].
        wanted: The smallest peer_s / ours_s that meets the bar; None if the row is for information only.
        equal: Whether the results of both sides are equal; None if there is nothing to compare.
        at_most_s: Instead of a ratio: patchcore may take at most this much longer than the peer [s].
        note: Additional information.
        unit: Unit of ours_s and peer_s, if it is not seconds.
    """

    bar: str
    what: str
    ours_s: float
    peer: str
    peer_s: float
    wanted: float | None = None
    equal: bool | None = True
    at_most_s: float | None = None
    note: str = ""
    unit: str = "s"

    @property
    def ratio(self) -> float:
        """The peer's time divided by our time."""
        return self.peer_s / self.ours_s if self.ours_s else math.inf

    @property
    def passed(self) -> bool | None:
        """Whether the bar is met; None if the row has no bar."""
        if self.equal is False:
            return False
        if self.at_most_s is not None:
            return self.ours_s - self.peer_s <= self.at_most_s
        return None if self.wanted is None else self.ratio >= self.wanted

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Row:
        """Create a row from a mapping that has the required fields. Unknown keys are ignored."""
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__ if name in fields})


def in_turns(*sides: Callable[[], Any], repeats: int, warm_up: bool = True) -> list[float]:
    """Return the median seconds of each side.

    The sides alternate, so that a change of the machine's speed affects all of them.
    """
    if warm_up:
        for side in sides:
            side()
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for taken, side in zip(times, sides, strict=True):
            start = time.perf_counter()
            side()
            taken.append(time.perf_counter() - start)
    return [median(taken) for taken in times]


def data_folder(*parts: str) -> Path | None:
    """Return a folder of real data, or None if it does not exist.

    The data is in the folder of the environment variable PATCHCORE_DATA, or in ``shared/data`` next to the repository.
    """
    root = os.environ.get("PATCHCORE_DATA")
    folder = Path(root) if root else Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = folder.joinpath(*parts)
    return folder if folder.exists() else None
