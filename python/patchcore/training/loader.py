"""Batches of training windows: drawn by step alone, read from the store by Rust, made ready ahead by threads.

Threads are enough: reading releases the GIL and takes about a millisecond a window. And since a batch depends on its
step and nothing else, a resume at step n goes on with the batch that an unbroken run would have had.
"""

from __future__ import annotations

import csv
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from patchcore.config.plan import TargetPlan
from patchcore.config.run import AugmentConfig, RunConfig, SamplingConfig
from patchcore.errors import ConfigError, CorruptFileError, DataError
from patchcore.models.device import Placement
from patchcore.store.case import AIR_HU
from patchcore.store.prepare import PreparedCase
from patchcore.store.window_reader import WindowReader
from patchcore.training.augment import draw_augmentation, shifted_range
from patchcore.types import Float64Array, IntTriple, PathLike, WindowDtype
from patchcore.windows.format import WindowFormat
from patchcore.windows.sampling import HardPoints, SamplerCase, WindowDraws, WindowSampler

__all__ = ["Batch", "BatchLoader", "BatchSource", "Lesion", "LoaderSettings", "read_hard_points", "training_windows"]

_AHEAD = 2
_HARD_COLUMNS = ("case_id", "x_mm", "y_mm", "z_mm", "weight")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int16": torch.int16}

Lesion: TypeAlias = tuple[int, int]
"""Index of a case and of a lesion within it."""


@dataclass(frozen=True, eq=False)
class Batch:
    """The windows of one step.

    Attributes:
        step: The step, from 0.
        image: (B, 1, X, Y, Z), `hu_range` scaled to [0, 1].
        label: (B, X, Y, Z) uint8 class indices.
        augmentation: (B, draws), for :class:`patchcore.training.augment.Augmenter`.
        draws: Where the windows lie, and what they were drawn for.
        lesions_drawn: The lesions that the step's windows were drawn for, as (case, lesion), other ranks' included.
        lesions_seen: The lesions with a voxel in one of those windows.
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
    """How a loader runs.

    Attributes:
        seed: Seed of all draws.
        batch_size: Windows per step, over all ranks together.
        sampling: How windows are drawn; None: the defaults.
        augment: How windows are varied; the loader shifts and scales their HU. None: not at all.
        dtype: Type of the images.
        rank: This rank makes positions rank, rank + world_size, … of the batch.
        world_size: Number of ranks.
        pin: Whether batches go to a GPU.

    Raises:
        ConfigError: The batch has fewer windows than there are ranks, or int16 windows are to be varied.
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
                f"rank {self.rank} of {self.world_size} and a batch of {self.batch_size}",
                expected="a window for every rank",
                remedy="enlarge the batch, or use fewer ranks",
            )
        if self.augment is not None and self.dtype == "int16":
            raise ConfigError("int16 windows cannot be varied", remedy="ask for float32, or leave out augment")


class BatchSource:
    """Makes the batch of any step.

    Args:
        cases: The training cases.
        window_size: Voxels per axis.
        hu_range: Clip of the plan, HU.
        classes: The plan's classes, for the organ's class index.
        settings: How the loader runs.

    Raises:
        ConfigError: The organ is not one of the classes.
        DataError: A share is for lesions, an organ or points that no case has.
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
        triples = zip(self.cases, spans, organs, strict=True)
        self.sampler = WindowSampler(
            [SamplerCase(case.shape, lesions, its_organ) for case, lesions, its_organ in triples],
            window_size,
            seed=settings.seed,
            lesion_share=sampling.lesion_share,
            alpha=sampling.alpha,
            organ_share=sampling.organ_share,
            hard_share=sampling.hard_share,
            lesion_free_share=sampling.lesion_free_share,
            hard_points=read_hard_points(sampling.hard_points, self.cases) if sampling.hard_points else None,
        )
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
        # Each rank knows what the others' windows show: drawing them costs no reading.
        draws = self.sampler.draw(step, self._everyone)
        return replace(found, lesions_drawn=_drawn(draws), lesions_seen=self.sampler.lesions_in(draws))

    def windows(self, step: int, positions: np.ndarray) -> Batch:
        """Return the windows at some positions of a step's batch.

        Raises:
            CorruptFileError: A case's store is damaged.
        """
        settings = self.settings
        draws = self.sampler.draw(step, positions)
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
        seen = self.sampler.lesions_in(draws)
        return Batch(step, image, label, augmentation, draws, _drawn(draws), seen)


def training_windows(
    cases: Sequence[PreparedCase], config: RunConfig, target: TargetPlan, placement: Placement, *, rank: int = 0
) -> BatchSource:
    """Return what makes the batches of a run.

    Args:
        cases: The training cases.
        config: The run's.
        target: The plan's target.
        placement: Where they go, and how many ranks share them.
        rank: Which of these this is.

    Raises:
        ConfigError, DataError, CorruptFileError: As :class:`BatchSource`.
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
    )


def _organ_class(sampling: SamplingConfig, classes: Sequence[int]) -> int | None:
    if not sampling.organ_label:
        if sampling.organ_share:
            raise ConfigError("sampling.organ_share without sampling.organ_label", remedy="name the organ's label")
        return None
    if sampling.organ_label not in classes:
        raise ConfigError(
            f"sampling.organ_label {sampling.organ_label} is none of the plan's classes {tuple(classes)}",
            remedy="add it to classes in plan.json: only labels that are learned are in the store",
        )
    return list(classes).index(sampling.organ_label) + 1


def read_hard_points(path: PathLike, cases: Sequence[PreparedCase]) -> HardPoints:
    """Read places to look at more often: a CSV of case_id, x_mm, y_mm, z_mm (world, RAS+) and weight.

    Rows of other cases are passed over, as those of the validation fold are.

    Args:
        path: The file.
        cases: The sampler's cases.

    Raises:
        DataError: A column is missing, a value is no number, a place lies outside of its case, or no row is left.
        OSError: It cannot be read.
    """
    path = Path(path)
    by_id = {case.case_id: number for number, case in enumerate(cases)}
    rows: list[tuple[int, list[int], float]] = []
    with path.open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.DictReader(handle)
        missing = [name for name in _HARD_COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"lacks the columns {', '.join(missing)}", path=path, expected=_HARD_COLUMNS)
        for line, row in enumerate(reader, 2):
            number = by_id.get(row["case_id"])
            if number is None:
                continue
            try:
                place = np.asarray([float(row[name]) for name in _HARD_COLUMNS[1:4]])
                weight = float(row["weight"])
            except (TypeError, ValueError):
                raise DataError(f"line {line} holds no numbers", path=path, found=row) from None
            case = cases[number]
            voxel = np.rint(np.linalg.solve(case.affine[:3, :3], place - case.affine[:3, 3]))
            if not (np.isfinite(voxel).all() and (voxel >= 0).all() and (voxel < case.shape).all()):
                raise DataError(
                    f"line {line}: {tuple(place)} mm lies outside of its case",
                    case_id=case.case_id,
                    path=path,
                    remedy="give world coordinates in mm, RAS+ as in NIfTI",
                )
            rows.append((number, [int(n) for n in voxel], weight))
    if not rows:
        raise DataError("names none of the training cases", path=path, remedy="check its case_id column")
    return HardPoints(
        case=np.asarray([number for number, _, _ in rows]),
        voxel=np.asarray([voxel for _, voxel, _ in rows]),
        weight=np.asarray([weight for _, _, weight in rows]),
    )


def _named(error: CorruptFileError, cases: Sequence[PreparedCase]) -> CorruptFileError:
    """Say which of the cases is damaged: the one in whose folder the shard lies."""
    case = next((case for case in cases if f"{case.path}{os.sep}" in error.message), None)
    return error if case is None else case.damaged(case.path, error.message)


def _drawn(draws: WindowDraws) -> set[Lesion]:
    pairs = zip(draws.case.tolist(), draws.lesion.tolist(), strict=True)
    return {(case, lesion) for case, lesion in pairs if lesion >= 0}


class BatchLoader:
    """Yields the batches of steps `start` … `stop` − 1, made ahead while the one before is used. A context manager.

    Args:
        source: Makes them.
        start: First step.
        stop: Step after the last.
        threads: Batches that are made at once.
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
            raise RuntimeError("the loader has ended")
        return self._source.batch(step)

    def next(self) -> Batch:
        """Return the next batch, waiting for it where it is not ready.

        Raises:
            CorruptFileError: A case's store is damaged.
            StopIteration: There is none.
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
        """The share of the time since the first batch was asked for that was spent waiting for one."""
        if self._began is None:
            return 0.0
        return self.waited_s / max(time.monotonic() - self._began, 1e-9)

    def close(self) -> None:
        """End the threads; what they make meanwhile is dropped."""
        self._ended.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
