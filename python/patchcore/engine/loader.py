"""Batches of training windows: drawn by step alone, read from the store by Rust, made ready ahead by a thread.

A thread is enough: reading releases the GIL and takes about two milliseconds a window. And since a batch depends on
its step and nothing else, a resume at step n goes on with the batch that an unbroken run would have had.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from patchcore.config.run import RunConfig
from patchcore.data.prepare import PreparedCase
from patchcore.engine.augment import draw_augmentation, shifted_range
from patchcore.types import Float64Array, IntTriple
from patchcore.volumetry import LesionSpans
from patchcore.windows import SamplerCase, WindowDraws, WindowSampler

__all__ = ["Batch", "BatchLoader", "BatchSource"]

_AHEAD = 2

Lesion: TypeAlias = tuple[int, int]
"""Index of a case and of a lesion within it."""


@dataclass(frozen=True, eq=False)
class Batch:
    """The windows of one step.

    Attributes:
        step: The step, from 0.
        image: (B, 1, X, Y, Z) float32, `hu_range` scaled to [0, 1].
        label: (B, X, Y, Z) uint8 class indices.
        augmentation: (B, 5), for :func:`patchcore.engine.augment.flip_windows`.
        lesions_drawn: The lesions that windows were drawn for, as (case, lesion).
        lesions_seen: The lesions with a voxel in one of the windows.
    """

    step: int
    image: Tensor
    label: Tensor
    augmentation: Float64Array
    lesions_drawn: set[Lesion]
    lesions_seen: set[Lesion]


class BatchSource:
    """Makes the batch of any step.

    Args:
        cases: The training cases.
        window_size: Voxels per axis.
        hu_range: Clip of the plan, HU.
        config: Seed, sampling and batch size count.
        pin: Whether batches go to a GPU.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        window_size: IntTriple,
        hu_range: tuple[float, float],
        config: RunConfig,
        *,
        pin: bool = False,
    ) -> None:
        self._cases = tuple(cases)
        self._window = window_size
        self._hu_range = hu_range
        self._config = config
        self._pin = pin
        self._spans: list[LesionSpans] = [case.spans() for case in self._cases]
        self._sampler = WindowSampler(
            [SamplerCase(case.shape, spans) for case, spans in zip(self._cases, self._spans, strict=True)],
            window_size,
            seed=config.seed,
            lesion_share=config.sampling.lesion_share,
            alpha=config.sampling.alpha,
        )
        self._positions = np.arange(config.train.batch_size, dtype=np.uint32)

    def batch(self, step: int) -> Batch:
        """Return the windows of a step.

        Raises:
            CorruptFileError: A case's store is damaged.
        """
        draws = self._sampler.draw(step, self._positions)
        augmentation = draw_augmentation(self._config.seed, step, self._positions)
        count = len(self._positions)
        image = torch.empty((count, 1, *self._window), pin_memory=self._pin)
        label = torch.empty((count, *self._window), dtype=torch.uint8, pin_memory=self._pin)
        image_out, label_out = image.numpy()[:, 0], label.numpy()
        for window in range(count):
            one = slice(window, window + 1)
            self._cases[int(draws.case[window])].read_window(
                draws.corner[one],
                self._window,
                hu_range=shifted_range(augmentation[window], self._hu_range, self._config.sampling),
                image_out=image_out[one],
                label_out=label_out[one],
            )
        return Batch(step, image, label, augmentation, _drawn(draws), self._seen(draws))

    def lesions_until(self, steps: int) -> tuple[set[Lesion], set[Lesion]]:
        """Return the lesions that the first `steps` steps drew, and those they showed: known without being kept."""
        drawn: set[Lesion] = set()
        seen: set[Lesion] = set()
        for step in range(steps):
            draws = self._sampler.draw(step, self._positions)
            drawn |= _drawn(draws)
            seen |= self._seen(draws)
        return drawn, seen

    def _seen(self, draws: WindowDraws) -> set[Lesion]:
        """Lesions with a voxel in one of the windows."""
        seen: set[Lesion] = set()
        for case, corner in zip(draws.case, draws.corner, strict=True):
            spans = self._spans[case]
            last = spans.origin.copy()
            last[:, spans.axis] += spans.length - 1
            inside = ((last >= corner) & (spans.origin < corner + self._window)).all(axis=1)
            seen.update((int(case), int(lesion)) for lesion in np.unique(spans.lesion[inside]))
        return seen


def _drawn(draws: WindowDraws) -> set[Lesion]:
    pairs = zip(draws.case, draws.lesion, strict=True)
    return {(int(case), int(lesion)) for case, lesion in pairs if lesion >= 0}


class BatchLoader:
    """Yields the batches of steps `start` … `stop` − 1, each made while the one before is used. A context manager."""

    def __init__(self, source: BatchSource, start: int, stop: int) -> None:
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(_AHEAD)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(source, start, stop), name="windows", daemon=True)
        self._thread.start()

    def _work(self, source: BatchSource, start: int, stop: int) -> None:
        for step in range(start, stop):
            item: Batch | BaseException
            try:
                item = source.batch(step)
            except BaseException as error:  # raised again where the batch is asked for
                item = error
            while not self._ended.is_set():
                try:
                    self._ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if self._ended.is_set() or isinstance(item, BaseException):
                return

    def next(self) -> Batch:
        """Return the next batch, waiting for it where it is not ready.

        Raises:
            CorruptFileError: A case's store is damaged.
        """
        item = self._ready.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
