"""Writes ``audit.jsonl``: who requested what, and what the supervisor did."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from patchcore.runs.paths import RunPaths, append_line
from patchcore.runs.records import Acknowledgement, Request

__all__ = ["Audit"]


class Audit:
    """Writes the audit lines of one attempt. If a line cannot be written, it is lost and the run continues.

    Args:
        paths: Paths of the run.
        attempt: Number of the attempt; it is stored in each line.
        answered: Answers that earlier attempts have already written.
    """

    def __init__(self, paths: RunPaths, attempt: int, answered: Iterable[Acknowledgement] = ()) -> None:
        self._path = paths.audit
        self._attempt = attempt
        self._asked: set[str] = set()
        self._answered = {answer.id for answer in answered}

    def write(self, what: str, **fields: Any) -> None:
        """Write one line."""
        with suppress(OSError):
            append_line(self._path, {"t": time.time(), "attempt": self._attempt, "what": what, **fields})

    def requests(self, waiting: Iterable[Request], answered: Iterable[Acknowledgement]) -> None:
        """Write the requests and answers that are new since the last call."""
        fresh = [answer for answer in answered if answer.id not in self._answered]
        # A request that was answered at once is no longer in `waiting`: it is seen only as an answer.
        everything: list[Request | Acknowledgement] = [*waiting, *fresh]
        for asked in everything:
            if asked.id not in self._asked:
                self._asked.add(asked.id)
                self.write("request", id=asked.id, verb=asked.verb, args=asked.args, author=asked.author)
        for answer in fresh:
            self._answered.add(answer.id)
            result = {"outcome": answer.outcome, "detail": answer.detail, "by": answer.by}
            self.write("answer", id=answer.id, verb=answer.verb, author=answer.author, **result)
