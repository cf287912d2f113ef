"""What every benchmark reports, and how two sides are timed."""

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
    """One comparison.

    Attributes:
        bar: The bar it belongs to, empty for information.
        what: What was done, on what.
        ours_s: Our seconds.
        peer: The peer's name.
        peer_s: The peer's seconds.
        wanted: The smallest peer_s / ours_s that passes; None for information.
        equal: Whether the answers were compared and equal; None where there is nothing to compare.
        at_most_s: Instead of a ratio: the most that ours may take above the peer, in seconds.
        note: Anything else worth a column.
        unit: What both sides are counted in, where it is not seconds.
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
        """How many times the peer's time ours goes into."""
        return self.peer_s / self.ours_s if self.ours_s else math.inf

    @property
    def passed(self) -> bool | None:
        """Whether the bar is met; None where there is none."""
        if self.equal is False:
            return False
        if self.at_most_s is not None:
            return self.ours_s - self.peer_s <= self.at_most_s
        return None if self.wanted is None else self.ratio >= self.wanted

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Row:
        """Make a row of a mapping with at least these fields; others are left out."""
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__ if name in fields})


def in_turns(*sides: Callable[[], Any], repeats: int, warm_up: bool = True) -> list[float]:
    """Median seconds of each side; they take turns, so that a drifting machine meets all of them."""
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
    """Real data beside the repository, or where PATCHCORE_DATA says; None where there is none."""
    root = os.environ.get("PATCHCORE_DATA")
    folder = Path(root) if root else Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = folder.joinpath(*parts)
    return folder if folder.exists() else None
