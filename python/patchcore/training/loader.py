"""Loads batches of training windows. Rust reads the windows from the store; threads prepare the batches in advance.

Threads are enough, because reading releases the GIL and takes about a millisecond per window. A batch depends on the
seed and its step only, so a resume at step n gets the same batch as an uninterrupted run.
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
        # Each rank also draws the other ranks' windows: drawing does not read voxels.
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
    )


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


def read_hard_points(path: PathLike, cases: Sequence[PreparedCase]) -> HardPoints:
    """Read hard points, which are sampled more often, from a CSV: case_id, x_mm, y_mm, z_mm (world, RAS+), weight.

    Rows of other cases are skipped, for example cases of the validation fold.

    Args:
        path: The CSV file.
        cases: The sampler's cases.

    Raises:
        DataError: A column is missing, a value is not a number, a point is outside its case, or no row belongs to a
            training case.
        OSError: The file cannot be read.
    """
    path = Path(path)
    by_id = {case.case_id: number for number, case in enumerate(cases)}
    rows: list[tuple[int, list[int], float]] = []
    with path.open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.DictReader(handle)
        missing = [name for name in _HARD_COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"missing columns: {', '.join(missing)}", path=path, expected=_HARD_COLUMNS)
        for line, row in enumerate(reader, 2):
            number = by_id.get(row["case_id"])
            if number is None:
                continue
            try:
                place = np.asarray([float(row[name]) for name in _HARD_COLUMNS[1:4]])
                weight = float(row["weight"])
            except (TypeError, ValueError):
                raise DataError(f"line {line}: coordinates and weight must be numbers", path=path, found=row) from None
            case = cases[number]
            voxel = np.rint(np.linalg.solve(case.affine[:3, :3], place - case.affine[:3, 3]))
            if not (np.isfinite(voxel).all() and (voxel >= 0).all() and (voxel < case.shape).all()):
                raise DataError(
                    f"line {line}: {tuple(place)} mm is outside its case",
                    case_id=case.case_id,
                    path=path,
                    remedy="give world coordinates in mm, RAS+ as in NIfTI",
                )
            rows.append((number, [int(n) for n in voxel], weight))
    if not rows:
        raise DataError("contains no training case", path=path, remedy="check the case_id column")
    return HardPoints(
        case=np.asarray([number for number, _, _ in rows]),
        voxel=np.asarray([voxel for _, voxel, _ in rows]),
        weight=np.asarray([weight for _, _, weight in rows]),
    )


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
