"""Training windows for your own PyTorch loop: a loader with its own threads, and a map-style data set."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from patchcore.config.run import AugmentConfig, SamplingConfig
from patchcore.errors import ConfigError
from patchcore.store.prepare import PreparedCase, prepare_cases
from patchcore.study import Study
from patchcore.training.augment import Augmenter
from patchcore.training.loader import Batch, BatchLoader, BatchSource, LoaderSettings, other_lesions
from patchcore.types import IntTriple, PathLike, Triple, WindowDtype
from patchcore.windows.sampling import DrawKind

__all__ = ["WindowDataset", "WindowLoader"]


@dataclass(frozen=True)
class _WindowsOf:
    """Describes the windows that a loader reads. Picklable, so that a spawned worker can open the store itself."""

    study: PathLike
    fold: int | None
    folds: int
    fold_seed: int
    window_size: IntTriple | None
    settings: LoaderSettings

    def open(self) -> _Windows:
        return _Windows(self)


class _Windows:
    """The training cases of a study and the source of their windows."""

    def __init__(self, of: _WindowsOf) -> None:
        study = Study(of.study)
        target = study.plan().target
        records = study.accepted()
        if of.fold is not None:
            if not 0 <= of.fold < of.folds:
                raise ConfigError(
                    f"fold {of.fold} of {of.folds} does not exist",
                    remedy=f"choose a fold from 0 to {of.folds - 1}, or None",
                )
            held_out = set(study.folds(of.folds, of.fold_seed)[of.fold])
            records = [record for record in records if record.case_id not in held_out]
        self.cases: tuple[PreparedCase, ...] = prepare_cases(study, target, records).cases
        self.spacing: Triple = target.spacing
        self.window_size: IntTriple = of.window_size or target.window_size
        self.source = BatchSource(
            self.cases,
            self.window_size,
            target.hu_range,
            classes=target.classes,
            settings=of.settings,
            other_lesions=other_lesions(self.cases, target),
        )

    def meta(self, batch: Batch) -> dict[str, Any]:
        """Return the origin of a batch's windows: step, cases, corners, kinds, lesions and augmentation draws."""
        draws = batch.draws
        return {
            "step": batch.step,
            "case_id": [self.cases[case].case_id for case in draws.case.tolist()],
            "corner": torch.from_numpy(draws.corner),
            "kind": [DrawKind(kind).name.lower() for kind in draws.kind.tolist()],
            "lesion": torch.from_numpy(draws.lesion),
            "augmentation": torch.from_numpy(batch.augmentation),
        }


class WindowLoader:
    """Yields batches of training windows of a study, read by threads of this process: ``{"image", "label", "meta"}``.

    Windows depend only on seed, step and position in the batch. They are the same for any number of ranks and threads
    and for any first step. Cases that are not in the study's store yet are prepared first. Iterate over the loader
    once, within ``with``.

    Args:
        study: A study with a plan, or its path.
        steps: Step after the last step.
        start: First step; set it to resume at this step.
        fold: The fold that is held out; None: train on all cases.
        folds: Number of folds.
        fold_seed: Seed of the division into folds, as ``train.fold_seed``; `seed` does not change the folds.
        batch_size: Windows per step, summed over all ranks.
        seed: Random seed of all draws.
        sampling: How windows are drawn; default: as in a training.
        augment: How windows are augmented, on `device`; None: no augmentation.
        window_size: Voxels per axis; default: the plan's.
        dtype: Data type of the images: ``float32``, ``float16``, ``bfloat16``, or ``int16`` for unscaled HU.
        device: Target device of the batches. CUDA batches go through pinned memory.
        rank: Rank of this process. It gets every `world_size`-th window.
        world_size: Number of processes.
        threads: Number of batches that are loaded at the same time.

    Raises:
        StudyError: The study does not exist or has no plan.
        ConfigError, DataError: An impossible fold, share or batch size.

    Example:
        >>> import patchcore as pc  # doctest: +SKIP
        >>> with pc.WindowLoader("study/", steps=1000, fold=0, device="cuda") as loader:  # doctest: +SKIP
        ...     for batch in loader:
        ...         loss = compute_loss(network(batch["image"]), batch["label"])
        ...     print(loader.waited_share)
    """

    def __init__(
        self,
        study: Study | PathLike,
        *,
        steps: int,
        start: int = 0,
        fold: int | None = None,
        folds: int = 5,
        fold_seed: int = 0,
        batch_size: int = 2,
        seed: int = 0,
        sampling: SamplingConfig | None = None,
        augment: AugmentConfig | None = None,
        window_size: IntTriple | None = None,
        dtype: WindowDtype = "float32",
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
        threads: int = 1,
    ) -> None:
        self.device = torch.device(device)
        settings = LoaderSettings(
            seed=seed,
            batch_size=batch_size,
            sampling=sampling or SamplingConfig(),
            augment=augment,
            dtype=dtype,
            rank=rank,
            world_size=world_size,
            pin=self.device.type == "cuda",
        )
        self._windows = _WindowsOf(os.fspath(study), fold, folds, fold_seed, window_size, settings).open()
        self._augmenter: Augmenter | None = None
        if augment is not None:
            self._augmenter = Augmenter(augment, self._windows.spacing, self._windows.window_size)
        self._steps = max(0, steps - start)
        self._loader = BatchLoader(self._windows.source, start, steps, threads=threads)

    @property
    def cases(self) -> Sequence[PreparedCase]:
        """The cases that windows are drawn from."""
        return self._windows.cases

    @property
    def waited_share(self) -> float:
        """Share of the loop's time so far that was spent waiting for data."""
        return self._loader.waited_share

    @property
    def waited_s(self) -> float:
        """Seconds spent waiting for data so far."""
        return self._loader.waited_s

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            try:
                batch = self._loader.next()
            except StopIteration:
                return
            image = batch.image.to(self.device, non_blocking=True)
            label = batch.label.to(self.device, non_blocking=True)
            if self._augmenter is not None:
                image, label = self._augmenter(image, label, batch.augmentation)
            yield {"image": image, "label": label, "meta": self._windows.meta(batch)}

    def __enter__(self) -> WindowLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loader.close()


class WindowDataset(Dataset[dict[str, Any]]):
    """Training windows of a study as a map-style data set, for a DataLoader with forked or spawned workers.

    Item n is window n % `batch_size` of step n // `batch_size`. Read in order and in batches of `batch_size`, the items
    are the windows of a :class:`WindowLoader`. Items hold ``image`` (1, X, Y, Z), ``label`` (X, Y, Z), ``case_id``,
    ``corner``, ``kind``, ``lesion`` and ``augmentation`` (the draws for
    :class:`patchcore.training.augment.Augmenter`).

    Args:
        study: A study with a plan, or its path.
        length: Number of items.
        fold: The fold that is held out; None: train on all cases.
        folds: Number of folds.
        fold_seed: Seed of the division into folds, as ``train.fold_seed``; `seed` does not change the folds.
        batch_size: Windows per step.
        seed: Random seed of all draws.
        sampling: How windows are drawn; default: as in a training.
        augment: How HU are shifted and scaled during reading; None: unchanged.
        window_size: Voxels per axis; default: the plan's.
        dtype: Data type of the images.

    Raises:
        StudyError: The study does not exist or has no plan.
        ConfigError, DataError: An impossible fold or share.

    Example:
        >>> from torch.utils.data import DataLoader  # doctest: +SKIP
        >>> loader = DataLoader(pc.WindowDataset("study/", length=2000), batch_size=2, num_workers=4)  # doctest: +SKIP
    """

    def __init__(
        self,
        study: Study | PathLike,
        *,
        length: int,
        fold: int | None = None,
        folds: int = 5,
        fold_seed: int = 0,
        batch_size: int = 2,
        seed: int = 0,
        sampling: SamplingConfig | None = None,
        augment: AugmentConfig | None = None,
        window_size: IntTriple | None = None,
        dtype: WindowDtype = "float32",
    ) -> None:
        self._length, self._batch_size = length, batch_size
        settings = LoaderSettings(
            seed=seed, batch_size=batch_size, sampling=sampling or SamplingConfig(), augment=augment, dtype=dtype
        )
        self._of = _WindowsOf(os.fspath(study), fold, folds, fold_seed, window_size, settings)
        self._windows = self._of.open()

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker opens the store itself.
        return {name: value for name, value in self.__dict__.items() if name != "_windows"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._windows = self._of.open()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(self._length)[index]
        step, position = divmod(index, self._batch_size)
        batch = self._windows.source.windows(step, np.asarray([position], dtype=np.uint32))
        meta = self._windows.meta(batch)
        return {
            "image": batch.image[0],
            "label": batch.label[0],
            "case_id": meta["case_id"][0],
            "corner": meta["corner"][0],
            "kind": meta["kind"][0],
            "lesion": meta["lesion"][0],
            "augmentation": meta["augmentation"][0],
        }
