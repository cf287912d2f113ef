"""Loads batches of training windows. Rust reads the windows from the store; threads prepare the batches in advance.

Threads are enough, because reading releases the GIL and takes about a millisecond per window. A batch depends on the
seed and its step only, so a resume at step n gets the same batch as an uninterrupted run.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from types import TracebackType
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from patchcore.config.plan import TargetPlan
from patchcore.config.run import AugmentConfig, RunConfig, SamplingConfig
from patchcore.errors import ConfigError, CorruptFileError
from patchcore.lesions.measure import LesionSpans, lesion_spans
from patchcore.models.device import Placement
from patchcore.store.case import AIR_HU
from patchcore.store.prepare import PreparedCase
from patchcore.store.window_reader import WindowReader
from patchcore.training.augment import draw_augmentation, shifted_range
from patchcore.training.hard_points import read_hard_points
from patchcore.types import Float64Array, Int64Array, IntTriple, WindowDtype
from patchcore.windows.format import WindowFormat
from patchcore.windows.sampling import SamplerCase, WindowDraws, WindowSampler

__all__ = [
    "Batch",
    "BatchLoader",
    "BatchSource",
    "Lesion",
    "LoaderSettings",
    "other_lesions",
    "training_windows",
]

_AHEAD = 2
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int16": torch.int16}

Lesion: TypeAlias = tuple[int, int]
"""Index of a case, and index of a lesion within the case."""


@dataclass(frozen=True, eq=False)
class Batch:
    """The windows of one step.

    Attributes:
        step: The step, from 0.
        image: (B, 1, X, Y, Z), `hu_range` scaled to [0, 1].
        label: (B, X, Y, Z) uint8 class indices.
        augmentation: (B, draws), input of :class:`patchcore.training.augment.Augmenter`.
        draws: Position of each window, and the lesion or other target it was drawn for.
        lesions_drawn: Lesions that the step's windows were drawn for, as (case, lesion), on all ranks.
        lesions_seen: Lesions with at least one voxel in a window of the step, on all ranks.
    """

    step: int
    image: Tensor
    label: Tensor
    augmentation: Float64Array
    draws: WindowDraws
    lesions_drawn: set[Lesion]
    lesions_seen: set[Lesion]


@dataclass(frozen=True)
class LoaderSettings:
    """Settings of a loader.

    Attributes:
        seed: Random seed of all draws.
        batch_size: Windows per step, summed over all ranks.
        sampling: How windows are drawn.
        augment: How windows are augmented; the loader shifts and scales their HU. None: no augmentation.
        dtype: Data type of the images.
        rank: Index of this rank. It loads positions rank, rank + world_size, … of the batch.
        world_size: Number of ranks.
        pin: Whether to use pinned memory, for batches that go to a GPU.

    Raises:
        ConfigError: The rank is outside the range, the batch has fewer windows than there are ranks, or int16 windows
            would be augmented.
    """

    seed: int = 0
    batch_size: int = 2
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    augment: AugmentConfig | None = None
    dtype: WindowDtype = "float32"
    rank: int = 0
    world_size: int = 1
    pin: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size or self.batch_size < self.world_size:
            raise ConfigError(
                f"rank {self.rank} of {self.world_size} with a batch of {self.batch_size}",
                expected="a rank below the number of ranks, and at least one window per rank",
                remedy="use a larger batch or fewer ranks",
            )
        if self.augment is not None and self.dtype == "int16":
            raise ConfigError("int16 windows cannot be augmented", remedy="use float32, or set augment to None")


class BatchSource:
    """Loads the batch of any step.

    Args:
        cases: The training cases.
        window_size: Voxels per axis.
        hu_range: Intensity clip of the plan [HU].
        classes: The plan's classes, to find the organ's class index.
        settings: Settings of the loader.
        other_lesions: Lesions of other labels, one list per label with the spans of each case. Windows for lesions are
            drawn for each label in turn.

    Raises:
        ConfigError: The organ is not one of the classes.
        DataError: A share is set for lesions, an organ or hard points, but no case has any.
        CorruptFileError: A case's store is damaged.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        window_size: IntTriple,
        hu_range: tuple[float, float],
        *,
        classes: Sequence[int],
        settings: LoaderSettings | None = None,
        other_lesions: Sequence[Sequence[LesionSpans]] = (),
    ) -> None:
        self.settings = settings = LoaderSettings() if settings is None else settings
        self.cases = tuple(cases)
        sampling = settings.sampling
        self._window = window_size
        self._hu_range = hu_range
        scaled = None if settings.dtype == "int16" else hu_range
        self._format = WindowFormat(scaled, settings.dtype, AIR_HU)
        self._reader = WindowReader(self.cases, cache_bytes=sampling.cache_mib << 20)
        organ = _organ_class(sampling, classes)
        spans = [case.spans() for case in self.cases]
        organs = [None if organ is None else case.class_spans(organ) for case in self.cases]
        hard_points = read_hard_points(sampling.hard_points, self.cases) if sampling.hard_points else None
        # One sampler per label with lesions; numbers of lesions continue from label to label.
        self._samplers: list[tuple[WindowSampler, Int64Array]] = []
        before = np.zeros(len(self.cases), np.int64)
        by_label = (spans, *other_lesions)
        ill = [any(its.lesion_count for its in labels) for labels in zip(*by_label, strict=True)]
        for lesions in by_label:
            shapes = [case.shape for case in self.cases]
            sampler = WindowSampler(
                [SamplerCase(*case) for case in zip(shapes, lesions, organs, ill, strict=True)],
                window_size,
                seed=settings.seed,
                lesion_share=sampling.lesion_share,
                alpha=sampling.alpha,
                organ_share=sampling.organ_share,
                hard_share=sampling.hard_share,
                lesion_free_share=sampling.lesion_free_share,
                hard_points=hard_points,
            )
            self._samplers.append((sampler, before))
            before = before + np.asarray([its.lesion_count for its in lesions], np.int64)
        self.positions = np.arange(settings.rank, settings.batch_size, settings.world_size, dtype=np.uint32)
        self._everyone = np.arange(settings.batch_size, dtype=np.uint32)

    def batch(self, step: int) -> Batch:
        """Return the windows of a step.

        Raises:
            CorruptFileError: A case's store is damaged.
        """
        found = self.windows(step, self.positions)
        if len(self.positions) == len(self._everyone):
            return found
        # Each rank also draws the other ranks' windows: drawing does not read voxels.
        draws = self.draw(step, self._everyone)
        return replace(found, lesions_drawn=_drawn(draws), lesions_seen=self._lesions_in(draws))

    def draw(self, step: int, positions: np.ndarray) -> WindowDraws:
        """Draw the windows at some positions of a step's batch, without reading them."""
        if len(self._samplers) == 1:
            return self._samplers[0][0].draw(step, positions)
        # Labels take turns over steps and positions.
        turns = (step * self.settings.batch_size + np.asarray(positions, np.int64)) % len(self._samplers)
        parts, places = [], []
        for turn, (sampler, before) in enumerate(self._samplers):
            own = np.flatnonzero(turns == turn)
            draws = sampler.draw(step, np.asarray(positions)[own])
            parts.append(replace(draws, lesion=np.where(draws.lesion < 0, -1, draws.lesion + before[draws.case])))
            places.append(own)
        order = np.argsort(np.concatenate(places))
        names = [item.name for item in fields(WindowDraws)]
        return WindowDraws(**{name: np.concatenate([getattr(part, name) for part in parts])[order] for name in names})

    def _lesions_in(self, draws: WindowDraws) -> set[Lesion]:
        """Return the lesions of all labels that have a voxel in one of the windows."""
        return {
            (case, int(lesion + before[case]))
            for sampler, before in self._samplers
            for case, lesion in sampler.lesions_in(draws)
        }

    def windows(self, step: int, positions: np.ndarray) -> Batch:
        """Return the windows at some positions of a step's batch.

        Raises:
            CorruptFileError: A case's store is damaged.
        """
        settings = self.settings
        draws = self.draw(step, positions)
        augmentation = draw_augmentation(settings.seed, step, positions)
        ranges = None
        if settings.augment is not None:
            ranges = [shifted_range(row, self._hu_range, settings.augment) for row in augmentation]
        image = torch.empty((len(positions), 1, *self._window), dtype=_DTYPES[settings.dtype], pin_memory=settings.pin)
        label = torch.empty((len(positions), *self._window), dtype=torch.uint8, pin_memory=settings.pin)
        chosen = [self.cases[case] for case in draws.case.tolist()]
        out = image.view(torch.uint16) if settings.dtype == "bfloat16" else image
        try:
            self._reader.read_as(
                draws.case,
                draws.corner,
                self._window,
                self._format,
                ranges=ranges,
                out=out.numpy(),
                label_out=label.numpy(),
                threads=1,
            )
        except CorruptFileError as error:
            raise _named(error, chosen) from None
        seen = self._lesions_in(draws)
        return Batch(step, image, label, augmentation, draws, _drawn(draws), seen)


def training_windows(
    cases: Sequence[PreparedCase], config: RunConfig, target: TargetPlan, placement: Placement, *, rank: int = 0
) -> BatchSource:
    """Return the source of a run's batches.

    Args:
        cases: The training cases.
        config: Configuration of the run.
        target: The plan's target.
        placement: Target device of the batches, and the number of ranks that share them.
        rank: Index of this rank.

    Raises:
        ConfigError, DataError, CorruptFileError: As for :class:`BatchSource`.
    """
    return BatchSource(
        cases,
        target.window_size,
        target.hu_range,
        classes=target.classes,
        settings=LoaderSettings(
            seed=config.seed,
            batch_size=config.train.batch_size,
            sampling=config.sampling,
            augment=config.augment,
            rank=rank,
            world_size=placement.ranks,
            pin=placement.device.type == "cuda",
        ),
        other_lesions=other_lesions(cases, target),
    )


def other_lesions(cases: Sequence[PreparedCase], target: TargetPlan) -> list[list[LesionSpans]]:
    """Return the lesions of the plan's other labels with lesions: one list per label, with the spans of each case.

    Raises:
        CorruptFileError: A case's store is damaged.
    """
    return [
        [lesion_spans(case.label(), labels=[index], connectivity=target.connectivity) for case in cases]
        for index in target.other_lesion_classes
    ]


def _organ_class(sampling: SamplingConfig, classes: Sequence[int]) -> int | None:
    if not sampling.organ_label:
        if sampling.organ_share:
            raise ConfigError(
                "sampling.organ_share is set without sampling.organ_label",
                remedy="set sampling.organ_label to the organ's label",
            )
        return None
    if sampling.organ_label not in classes:
        raise ConfigError(
            f"sampling.organ_label {sampling.organ_label} is not one of the plan's classes {tuple(classes)}",
            remedy="add it to classes in plan.json: the store holds only the labels of these classes",
        )
    return list(classes).index(sampling.organ_label) + 1


def _named(error: CorruptFileError, cases: Sequence[PreparedCase]) -> CorruptFileError:
    """Name the damaged case: the shard is in its folder."""
    case = next((case for case in cases if f"{case.path}{os.sep}" in error.message), None)
    return error if case is None else case.damaged(case.path, error.message)


def _drawn(draws: WindowDraws) -> set[Lesion]:
    pairs = zip(draws.case.tolist(), draws.lesion.tolist(), strict=True)
    return {(case, lesion) for case, lesion in pairs if lesion >= 0}


class BatchLoader:
    """Yields the batches of steps `start` … `stop` − 1. Threads load the next batches in advance. A context manager.

    Args:
        source: Loads the batches.
        start: First step.
        stop: Step after the last step.
        threads: Number of batches that are loaded at the same time.
    """

    def __init__(self, source: BatchSource, start: int, stop: int, *, threads: int = 1) -> None:
        self._source = source
        self._next, self._stop = start, stop
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="windows")
        self._ready: deque[Future[Batch]] = deque()
        self._began: float | None = None
        self.waited_s = 0.0
        self._fill(threads + _AHEAD - 1)

    def _fill(self, count: int) -> None:
        while len(self._ready) < count and self._next < self._stop:
            self._ready.append(self._pool.submit(self._make, self._next))
            self._next += 1

    def _make(self, step: int) -> Batch:
        if self._ended.is_set():
            raise RuntimeError("the loader is closed")
        return self._source.batch(step)

    def next(self) -> Batch:
        """Return the next batch; wait for it if it is not ready.

        Raises:
            CorruptFileError: A case's store is damaged.
            StopIteration: There is no further batch.
        """
        if not self._ready:
            raise StopIteration
        began = time.monotonic()
        if self._began is None:
            self._began = began
        count = len(self._ready)
        batch = self._ready.popleft().result()
        self._fill(count)
        self.waited_s += time.monotonic() - began
        return batch

    @property
    def waited_share(self) -> float:
        """Share of the time spent waiting for batches, since the first batch was requested."""
        if self._began is None:
            return 0.0
        return self.waited_s / max(time.monotonic() - self._began, 1e-9)

    def close(self) -> None:
        """Stop the threads and drop unfinished batches."""
        self._ended.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
