"""Progress reporting: rank 0 writes to the run folder, other ranks report nothing."""

from __future__ import annotations

from typing import Any, TypeAlias

from patchcore.runs import Request, RunWriter

__all__ = ["Silence", "Writer"]


class Silence:
    """Has the methods of :class:`patchcore.runs.RunWriter` that a training uses, but writes and receives nothing."""

    def requests(self) -> list[Request]:
        """Return an empty list."""
        return []

    def _ignore(self, *_: Any, **__: Any) -> None:
        pass

    metric = validation = case = checkpoint = state = alert = progress = acknowledge = add_to_start = _ignore


Writer: TypeAlias = RunWriter | Silence
