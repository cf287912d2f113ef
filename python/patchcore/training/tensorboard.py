"""TensorBoard's events beside the run's own: a mirror that costs nothing where it fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["TensorBoard"]


class TensorBoard:
    """Writes numbers to ``RUN/tensorboard``; a no-op where tensorboard is not installed.

    The run's own events stay the truth. What an attempt repeats after a resume takes the place of what was there.

    Args:
        folder: Where.
        first_step: The first step that will be told.
        tell: Called once with a sentence where writing fails; nothing is written from then on.
        wanted: Whether to write at all.
    """

    def __init__(self, folder: Path, first_step: int, tell: Callable[[str], None], *, wanted: bool = True) -> None:
        self._writer: Any = None
        self._tell = tell
        if wanted and find_spec("tensorboard") is not None:
            self._guarded(lambda: self._open(folder, first_step))

    def _open(self, folder: Path, first_step: int) -> None:
        # A protobuf that does not fit fails here, too.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_step, max_queue=100, flush_secs=30)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers of a step; what is not finite is left out."""
        if self._writer is not None:
            self._guarded(lambda: self._write(step, values))

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._guarded(lambda: self._writer.close())

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._writer = None
            self._tell(f"TensorBoard's events end here: {type(error).__name__}: {error}")
