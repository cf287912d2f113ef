"""What a training tells: rank 0 the run folder, the other ranks nobody."""

from __future__ import annotations

from typing import Any, TypeAlias

from patchcore.runs import Request, RunWriter

__all__ = ["Silence", "Writer"]


class Silence:
    """Takes what a :class:`patchcore.runs.RunWriter` is told, and is asked nothing."""

    def requests(self) -> list[Request]:
        """Return nothing."""
        return []

    def _ignore(self, *_: Any, **__: Any) -> None:
        pass

    metric = validation = case = checkpoint = state = alert = progress = acknowledge = _ignore


Writer: TypeAlias = RunWriter | Silence
