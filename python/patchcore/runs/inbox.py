"""Receives control requests and answers them; also lists waiting requests and reads answers."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final

from patchcore.files import write_json_atomic
from patchcore.processes import boot_id
from patchcore.runs.events import plain
from patchcore.runs.paths import RunPaths, read_object
from patchcore.runs.records import Acknowledgement, Request, Verb
from patchcore.runs.values import as_number

__all__ = ["Inbox", "read_answer", "waiting_requests"]

_ID: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,63}")


def waiting_requests(paths: RunPaths) -> list[Request]:
    """Return the requests without an answer, oldest first. Changes no file."""
    new = paths.requests_new
    # An answer is written before its request is removed.
    answered = set(_names(paths.requests_done))
    found = (_parse(identity, new / f"{identity}.json") for identity in _names(new) if identity not in answered)
    return [request for request in found if request is not None]


def read_answer(paths: RunPaths, identity: str) -> Acknowledgement | None:
    """Return the answer to a request, or None if there is no answer yet."""
    record = read_object(paths.requests_done / f"{identity}.json")
    if record is None or not isinstance(record.get("outcome"), str):
        return None
    detail, answered, args = (record.get(key) for key in ("detail", "answered", "args"))
    return Acknowledgement(
        id=identity,
        verb=str(record.get("verb", "")),
        outcome=record["outcome"],
        detail=None if detail is None else str(detail),
        by=str(record.get("by", "")),
        t=as_number(answered) or 0.0,
        author=str(record.get("author", "")),
        args=args if isinstance(args, dict) else {},
    )


class Inbox:
    """Receives and answers requests. The trainer's writer uses it; the supervisor uses it if no trainer answers.

    Args:
        paths: Paths of the run.
        by: Who answers: ``trainer`` or ``supervisor``.
    """

    def __init__(self, paths: RunPaths, *, by: str) -> None:
        self._paths = paths
        self._by = by
        self._boot_id = boot_id()
        self._seen: dict[str, float] = {}
        self._final: dict[str, Acknowledgement] = {}

    def pending(self) -> list[Request]:
        """Return the waiting requests, oldest first. Expired and unreadable requests are answered here."""
        requests = []
        for identity in _names(self._paths.requests_new):
            with suppress(OSError):  # a network file system that does not answer now: the next look finds the request
                request = self._waiting(identity)
                if request is not None:
                    requests.append(request)
        return requests

    def _waiting(self, identity: str) -> Request | None:
        path = self._paths.requests_new / f"{identity}.json"
        if (self._paths.requests_done / path.name).exists():
            path.unlink()  # a process answered it but died before it removed the file
            return None
        found = _parse(identity, path)
        if found is None:
            with suppress(PermissionError):  # it will not become readable
                path.read_bytes()  # raises if the file is gone or cannot be read now
            self.answer(_unreadable(identity), "refused", "the request cannot be read")
        elif self._expired(found):
            self.answer(found, "expired", "no process accepted the request in time")
            return None
        return found

    def answered(self) -> list[Acknowledgement]:
        """Return all answers, from the trainer and from the supervisor. A final answer is read only once."""
        answers = []
        for identity in _names(self._paths.requests_done):
            answer = self._final.get(identity) or read_answer(self._paths, identity)
            if answer is None:
                continue
            if answer.outcome != "accepted":  # the answer "done" or "failed" replaces it
                self._final[identity] = answer
            answers.append(answer)
        return answers

    def answer(self, request: Request, outcome: str, detail: str | None = None) -> None:
        """Answer a request and move it to ``control/done``. Never raises."""
        answer = {"outcome": outcome, "detail": detail, "by": self._by, "answered": time.time()}
        name = f"{request.id}.json"
        source, target = self._paths.requests_new / name, self._paths.requests_done / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_json_atomic(target, plain(asdict(request) | answer))
            source.unlink(missing_ok=True)
        except OSError:
            with suppress(OSError):
                source.replace(target)  # a rename works on a full disk, too: the request is not handled twice

    def _expired(self, request: Request) -> bool:
        # Never by the time of day: someone may have set it meanwhile. The monotonic clock is that of this boot.
        first_seen = self._seen.setdefault(request.id, time.monotonic())
        began = request.mono if request.mono is not None and request.boot_id == self._boot_id else first_seen
        return time.monotonic() - began > request.expires - request.t


def _names(folder: Path) -> list[str]:
    """Return the ids of the requests in a folder. Temporary files and other files are ignored."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        return []
    stems = (name.removesuffix(".json") for name in names if name.endswith(".json"))
    return [stem for stem in stems if _ID.fullmatch(stem)]


def _parse(identity: str, path: Path) -> Request | None:
    record = read_object(path)
    if record is None:
        return None
    try:
        return Request(
            id=identity,
            verb=Verb(record["verb"]),
            args=dict(record.get("args") or {}),
            author=str(record.get("author", "")),
            t=float(record["t"]),
            expires=float(record["expires"]),
            boot_id=str(record.get("boot_id", "")),
            mono=None if record.get("mono") is None else float(record["mono"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _unreadable(identity: str) -> Request:
    return Request(id=identity, verb=Verb.CHECKPOINT, args={}, author="", t=0.0, expires=0.0)
