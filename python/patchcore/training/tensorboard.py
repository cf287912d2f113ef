"""Copies the metrics of a run to TensorBoard. A failure here never stops the training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["TensorBoard"]


class TensorBoard:
    """Writes scalar values to ``RUN/tensorboard``. Does nothing if tensorboard is not installed.

    The run's own events remain the reference. Steps that are repeated after a resume replace the earlier values.

    Args:
        folder: Folder of the TensorBoard events.
        first_step: The first step that will be written.
        warn: Called once with a message if writing fails; nothing is written after that.
        wanted: Whether to write events.
    """

    def __init__(self, folder: Path, first_step: int, warn: Callable[[str], None], *, wanted: bool = True) -> None:
        self._writer: Any = None
        self._warn = warn
        if wanted and find_spec("tensorboard") is not None:
            self._guarded(lambda: self._open(folder, first_step))

    def _open(self, folder: Path, first_step: int) -> None:
        # An incompatible protobuf version also fails here.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_step, max_queue=100, flush_secs=30)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a step; values that are not finite are skipped."""
        if self._writer is not None:
            self._guarded(lambda: self._write(step, values))

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write the remaining events and close the files."""
        if self._writer is not None:
            self._guarded(lambda: self._writer.close())

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._writer = None
            self._warn(f"writing TensorBoard events failed and is turned off: {type(error).__name__}: {error}")
