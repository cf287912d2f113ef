"""Receives requests for a running trainer: from the run folder, and as SIGTERM or SIGINT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from patchcore.interrupts import StopSignal
from patchcore.runs import Request, Verb
from patchcore.training.silence import Writer

__all__ = ["LEAVING", "Control", "Interrupted", "Leaving"]

Leaving: TypeAlias = Literal["stop", "pause"]
LEAVING: tuple[Leaving | None, ...] = (None, "stop", "pause")
"""How a training can end early. The index is the number that rank 0 sends to the other ranks."""


class Interrupted(Exception):  # noqa: N818 - not an error: a validation or preparation stopped on request
    """Raised to interrupt long work because of a stop or pause request."""


class Control:
    """Reads requests and answers them.

    Attributes:
        leave: How to end, ``"stop"`` or ``"pause"``; None to continue.
        validate: Whether a validation was requested.
        checkpoint: Whether a checkpoint was requested.
    """

    def __init__(self, writer: Writer, stop_signal: StopSignal | None = None) -> None:
        self._writer = writer
        self._signal = stop_signal
        self._open: list[Request] = []
        self.leave: Leaving | None = None
        self.validate = False
        self.checkpoint = False

    def look(self) -> None:
        """Accept the requests that arrived since the last call. Cheap enough for every step and batch of windows."""
        for request in self._writer.requests():
            if request.verb is Verb.STOP:
                self.leave = "stop"
            elif request.verb is Verb.PAUSE:
                self.leave = self.leave or "pause"
            elif request.verb is Verb.VALIDATE:
                self.validate = True
            else:
                self.checkpoint = True
            self._open.append(request)
            self._writer.acknowledge(request, "accepted")
        if self._signal is not None and self._signal.received and self.leave is None:
            self.leave = "stop"
            self._writer.state("stopping", f"received {self._signal.received}")

    def look_or_leave(self) -> None:
        """Accept new requests, and interrupt the current work on a stop or pause. The work is repeated later.

        Raises:
            Interrupted: A stop or pause was requested.
        """
        self.look()
        if self.leave is not None:
            raise Interrupted

    def done(self, *verbs: Verb, detail: Callable[[], str] | str | None = None) -> None:
        """Answer the open requests with these verbs as done."""
        text = detail() if callable(detail) else detail
        for request in [item for item in self._open if item.verb in verbs]:
            self._writer.acknowledge(request, "done", text)
            self._open.remove(request)
        if Verb.VALIDATE in verbs:
            self.validate = False
        if Verb.CHECKPOINT in verbs:
            self.checkpoint = False
