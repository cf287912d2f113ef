"""Segments whole scans in bounded memory: windows in, class indices on the scan's own grid out. Knows no torch.

A plane of probabilities leaves memory as soon as no window can touch it any more: it is interpolated to the scan's grid
and decided there. Several models are averaged in one pass over the scan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from patchcore import _core
from patchcore.config.plan import TargetPlan
from patchcore.errors import ConfigError, DataError
from patchcore.resampling.grid import Grid
from patchcore.store.window_reader import WindowReader
from patchcore.types import Affine, AnyArray, BoolArray, Float32Array, Int64Array, IntTriple, Triple
from patchcore.windows.blending import gaussian_importance, window_grid
from patchcore.windows.format import WindowFormat

__all__ = [
    "AIR_BELOW_HU",
    "PROBABILITY_STEPS",
    "Segmentation",
    "WindowModel",
    "air_windows",
    "check_alike",
    "lesion_mask",
    "lesion_members",
    "mirrored_axes",
    "segment",
]

PROBABILITY_STEPS = 65535
"""Value that stands for probability 1 in :attr:`Segmentation.lesion_probability`."""

AIR_BELOW_HU = -900
"""A window is skipped as air if no voxel of the scan in it, and in a margin around it, lies above this."""
_AIR_MARGIN = 2
# A voxel of the scan is interpolated from the neighbouring voxels of the training grid. With a margin of two of them,
# no voxel above the limit depends on a window that was skipped.


@dataclass(frozen=True)
class WindowModel:
    """Networks that read the same windows; their probabilities are averaged.

    Attributes:
        target: The plan: window, spacing, ``hu_range``, classes.
        probabilities: Maps scaled windows, float32 (B, *window_size), to probabilities, float32 (B, 1 + classes,
            *window_size), background first.
        batch: Number of windows per call.
        overlap: Overlap of neighbouring windows.
        networks: Number of networks.
    """

    target: TargetPlan
    probabilities: Callable[[Float32Array], Float32Array]
    batch: int = 4
    overlap: float = 0.5
    networks: int = 1


@dataclass(frozen=True)
class Segmentation:
    """Result for one scan, in stored axis order.

    Attributes:
        classes: uint8 class indices; 0 is background.
        lesion_probability: uint16, the probability of a lesion times :data:`PROBABILITY_STEPS`; None if it was not
            asked for.
        windows: Number of windows that cover the scan, over all models.
        air_windows: Number of them that were skipped because they contain only air.
    """

    classes: npt.NDArray[np.uint8]
    lesion_probability: npt.NDArray[np.uint16] | None
    windows: int
    air_windows: int


def lesion_members(target: TargetPlan) -> tuple[int, ...]:
    """Return the class indices that make up the lesions."""
    index = target.classes.index(target.lesion_label) + 1
    return target.evaluated_indices.get(index, (index,))


def lesion_mask(classes: npt.NDArray[np.uint8], target: TargetPlan) -> BoolArray:
    """Return which voxels of a map of class indices are lesion."""
    first, *others = lesion_members(target)
    mask: BoolArray = classes == first
    for index in others:
        mask |= classes == index
    return mask


def mirrored_axes(*, mirror: bool) -> list[tuple[int, ...]]:
    """Return the axes of a batch (B, 1, X, Y, Z) along which each version of its windows is mirrored.

    Example:
        >>> mirrored_axes(mirror=False), len(mirrored_axes(mirror=True))
        ([()], 8)
    """
    return [axes for count in range(4 if mirror else 1) for axes in combinations((2, 3, 4), count)]


def check_alike(targets: Sequence[TargetPlan]) -> None:
    """Check that the predictions of models mean the same.

    Raises:
        ConfigError: Classes, lesion label or regions differ.
    """
    first = targets[0]
    for other in targets[1:]:
        for name in ("classes", "lesion_label", "regions"):
            a, b = getattr(first, name), getattr(other, name)
            if a != b:
                raise ConfigError(
                    f"the models differ in {name}: {a} and {b}", remedy="average only models of the same classes"
                )


@dataclass
class _Part:
    """What is left to do of one model."""

    model: WindowModel
    reader: WindowReader
    corners: Int64Array
    air: npt.NDArray[np.bool_]
    form: WindowFormat
    done: int = 0

    def next_batch(self) -> slice:
        """Return the next windows: either all air, or at most one batch that is not."""
        start = self.done
        is_air = bool(self.air[start])
        stop = start + 1
        while stop < len(self.corners) and self.air[stop] == is_air and (is_air or stop - start < self.model.batch):
            stop += 1
        self.done = stop
        return slice(start, stop)


def segment(
    models: Sequence[WindowModel],
    image: AnyArray,
    affine: Affine,
    *,
    threshold: float | None = None,
    keep_probability: bool = False,
    skip_air: bool = False,
    progress: Callable[[int, int], None] | None = None,
    threads: int | None = None,
) -> Segmentation:
    """Segment a scan.

    Memory beyond the scan and the result: per model, its resampled scan (int16) and one window's thickness of planes
    (float32, one per class and one for the weights).

    Args:
        models: The models; more networks in one of them have more weight in the mean.
        image: HU, stored axis order.
        affine: Voxel index → world mm.
        threshold: Probability above which a voxel is lesion; None: if lesion is the most likely class.
        keep_probability: Whether to return the probability of a lesion.
        skip_air: Whether windows of nothing but air (see :data:`AIR_BELOW_HU`) are background without a look at them.
        progress: Called with the number of finished windows and their total.
        threads: Number of threads for blending and interpolation [default: all cores].

    Raises:
        ConfigError: The models have different classes.
        DataError: A network returns NaN or infinity.
        MemoryError: The result does not fit into memory.
    """
    check_alike([model.target for model in models])
    target = models[0].target
    shape = (int(image.shape[0]), int(image.shape[1]), int(image.shape[2]))
    grids = [Grid.of(shape, affine, model.target.spacing) for model in models]
    parts = _parts(models, grids, image, skip_air=skip_air)
    networks = sum(model.networks for model in models)
    own = target.classes.index(target.lesion_label) + 1
    regions = target.region_indices
    stream = _core.LabelStream(
        len(target.classes) + 1,
        grids[0].canonical_shape,
        [
            (
                grid.shape,
                model.target.window_size,
                grid.inverse_ratio,
                gaussian_importance(model.target.window_size).reshape(-1),
                model.networks / networks,
            )
            for model, grid in zip(models, grids, strict=True)
        ],
        rule=(
            None if regions is None else [(index, list(members)) for index, members in regions.items()],
            None if threshold is None else (own, threshold),
            list(lesion_members(target)),
        ),
        keep_probability=keep_probability,
        threads=threads,
    )
    total, done = sum(len(part.corners) for part in parts), 0
    while True:
        reached = stream.reached()
        # The model that is furthest behind goes on, so that few planes wait for the others.
        left = [number for number, part in enumerate(parts) if part.done < len(part.corners)]
        if not left:
            break
        number = min(left, key=lambda index: reached[index])
        part = parts[number]
        batch = part.next_batch()
        corners = part.corners[batch]
        if part.air[batch.start]:
            stream.add(number, corners, None)
        else:
            windows = part.reader.read_as(0, corners, part.model.target.window_size, part.form, with_labels=False).image
            found = part.model.probabilities(windows)
            if not np.isfinite(found).all():
                raise DataError(
                    "the network returns values that are not numbers",
                    remedy="predict in float32 (--device cpu); if they stay, the weights are damaged or diverged",
                )
            stream.add(number, corners, np.ascontiguousarray(found, dtype=np.float32).reshape(-1))
        done += len(corners)
        if progress is not None:
            progress(done, total)
    classes, probability = stream.finish()
    grid = grids[0]

    def stored(flat: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.ascontiguousarray(grid.stored(flat.reshape(grid.canonical_shape)))

    return Segmentation(
        stored(classes),
        stored(probability) if keep_probability else None,
        windows=total,
        air_windows=sum(int(part.air.sum()) for part in parts),
    )


def _parts(models: Sequence[WindowModel], grids: Sequence[Grid], image: AnyArray, *, skip_air: bool) -> list[_Part]:
    resampled: dict[tuple[Triple, Literal["cubic", "linear"], bool], AnyArray] = {}
    parts = []
    for model, grid in zip(models, grids, strict=True):
        target = model.target
        key = (target.spacing, target.store.kernel, target.store.antialias)
        if key not in resampled:
            resampled[key] = grid.resample(image, kernel=key[1], antialias=key[2])
        scan = resampled[key]
        corners = window_grid(grid.shape, target.window_size, overlap=model.overlap)
        air = np.zeros(len(corners), dtype=np.bool_)
        if skip_air:
            air = air_windows(grid.canonical(image), corners, target.window_size, ratio=grid.ratio)
        parts.append(_Part(model, WindowReader([scan]), corners, air, WindowFormat(target.hu_range)))
    return parts


def air_windows(
    image: AnyArray, corners: Int64Array, window_size: IntTriple, *, ratio: Triple = (1.0, 1.0, 1.0)
) -> npt.NDArray[np.bool_]:
    """Return which windows contain nothing but air, and have nothing else within two voxels.

    Args:
        image: HU of the scan, canonical axis order.
        corners: Corners of the windows on the training grid, (n, 3).
        window_size: Size of a window on the training grid.
        ratio: Training spacing divided by the scan's spacing.

    Example:
        >>> image = np.full((20, 4, 4), -1000, np.int16)
        >>> image[12] = 40
        >>> air_windows(image, np.array([[0, 0, 0], [8, 0, 0]]), (8, 4, 4)).tolist()
        [True, False]
    """
    found = np.zeros(len(corners), dtype=np.bool_)
    for number, corner in enumerate(corners):
        low = np.floor((corner - _AIR_MARGIN) * np.asarray(ratio)).clip(0).astype(int)
        high = np.ceil((corner + np.asarray(window_size) + _AIR_MARGIN) * np.asarray(ratio)).astype(int)
        part = image[tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))]
        # Most windows that are not air show it in a few voxels. Beyond the scan there is only padding.
        found[number] = not part.size or (
            bool(part[::8, ::8, ::8].max() <= AIR_BELOW_HU) and bool(part.max() <= AIR_BELOW_HU)
        )
    return found
