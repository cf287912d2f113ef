"""Writing one case of a store: image, label map and lesions, streamed from their files on to the training grid."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from patchcore import _core
from patchcore.files import write_json_atomic
from patchcore.grid import Grid
from patchcore.resampling import ANISOTROPY
from patchcore.store.layout import array_metadata, shard_shape
from patchcore.types import IntTriple, Triple
from patchcore.volumetry import LesionSpans

__all__ = ["AIR_HU", "Placed", "Source", "WrittenLabels", "count_shards", "write_spans", "write_table"]

AIR_HU = -1024
"""What NaN and everything outside a scan is taken for."""

Source: TypeAlias = Path | npt.NDArray[Any]
"""A NIfTI file, or an array in stored axis order."""

_TABLE = ("lesion", "voxel_count", "volume_mm3", "equivalent_diameter_mm")


@dataclass(frozen=True)
class _Arguments:
    """What the core takes a placement as; canonical axes but for `axes`."""

    axes: IntTriple
    flipped: tuple[bool, bool, bool]
    ratio: Triple
    shape: IntTriple
    start: IntTriple
    stop: IntTriple
    cubic: tuple[bool, bool, bool]
    antialias: bool


@dataclass(frozen=True)
class WrittenLabels:
    """What came of a label map.

    Attributes:
        spans: The lesions, on the part kept of the training grid.
        class_voxels: Voxels of each class.
        kept_lesions: Lesions that were given one voxel, for they would have vanished.
        other_classes: Spans of every class but the lesions', int32 (spans, 5): class index, origin x y z, length.
    """

    spans: LesionSpans
    other_classes: npt.NDArray[np.int32]
    class_voxels: tuple[int, ...]
    kept_lesions: int


@dataclass(frozen=True)
class Placed:
    """A scan on the part of its training grid that is kept.

    Attributes:
        grid: The training grid.
        start: First voxel kept.
        stop: Voxel after the last one kept.
        kernel: ``cubic`` or ``linear``; an axis more than three times as thick as the others is linear anyway.
        antialias: Whether axes that become coarser are blurred first.
    """

    grid: Grid
    start: IntTriple
    stop: IntTriple
    kernel: Literal["cubic", "linear"] = "cubic"
    antialias: bool = True

    @property
    def shape(self) -> IntTriple:
        """Voxels kept."""
        (a, b, c), (x, y, z) = self.start, self.stop
        return (x - a, y - b, z - c)

    def needed_bytes(self, source: Source, classes: int, threads: int) -> int:
        """Return the memory that writing image and labels takes at most.

        Raises:
            DataError, OSError: The source's header cannot be read.
        """
        shards = (self._shard(source, 2), self._shard(source, 1))
        needed: int = _core.prepare_case_bytes(
            source, self._arguments(), shards=shards, classes=classes, threads=threads
        )
        return needed

    def write_image(self, source: Source, folder: Path, *, threads: int | None = None) -> int:
        """Write the CT as int16 HU into a new folder; returns its bytes.

        Raises:
            DataError: The source is damaged.
            OSError: It cannot be read, or the store not written.
        """
        folder.mkdir()
        shard = self._shard(source, 2)
        written: int = _core.prepare_case_image(
            source, self._arguments(), folder, shard=shard, nan=AIR_HU, threads=threads
        )
        metadata = array_metadata(self.shape, shard, "int16", fill=AIR_HU, attributes=count_shards(folder))
        write_json_atomic(folder / "zarr.json", metadata)
        return written

    def write_labels(
        self,
        source: Source,
        folder: Path,
        *,
        classes: Sequence[int],
        lesion_label: int,
        connectivity: int,
        threads: int | None = None,
    ) -> WrittenLabels:
        """Write the label map as uint8 class indices into a new folder, and find its lesions.

        Raises:
            DataError: The source is damaged, or there are more than 255 classes.
            OSError: It cannot be read, or the store not written.
        """
        folder.mkdir()
        shard = self._shard(source, 1)
        found = _core.prepare_case_labels(
            source,
            self._arguments(),
            folder,
            shard=shard,
            classes=list(classes),
            lesion_label=lesion_label,
            connectivity=connectivity,
            threads=threads,
        )
        metadata = array_metadata(self.shape, shard, "uint8", attributes=count_shards(folder))
        write_json_atomic(folder / "zarr.json", metadata)
        class_voxels, kept = found.pop("class_voxels"), found.pop("kept_lesions")
        other = np.column_stack(found.pop("class_spans")).astype(np.int32)
        return WrittenLabels(LesionSpans(**found), other, tuple(class_voxels), kept)

    def _arguments(self) -> _Arguments:
        grid = self.grid
        new = [spacing * ratio for spacing, ratio in zip(grid.canonical_spacing, grid.ratio, strict=True)]
        old = grid.canonical_spacing
        thick = [old[n] > ANISOTROPY * max(old[n - 1], old[n - 2]) for n in range(3)]
        cubic = [self.kernel == "cubic" and not axis for axis in thick]
        return _Arguments(
            axes=grid.axes,
            flipped=grid.flipped,
            ratio=(new[0] / old[0], new[1] / old[1], new[2] / old[2]),
            shape=grid.shape,
            start=self.start,
            stop=self.stop,
            cubic=(cubic[0], cubic[1], cubic[2]),
            antialias=self.antialias,
        )

    def _shard(self, source: Source, element_bytes: int) -> IntTriple:
        """Return the shape of shards: thin along the axis that the source is read along."""
        slowest = 2
        if not isinstance(source, Path):
            long = [axis for axis in range(3) if source.shape[axis] > 1] or [0, 1, 2]
            slowest = max(long, key=lambda axis: abs(source.strides[axis]))
        return shard_shape(self.shape, element_bytes, thin_axis=self.grid.axes.index(slowest))


def count_shards(folder: Path) -> dict[str, Any]:
    """Return attributes that say how many shards an array has: one that got lost would pass for air."""
    return {"patchcore": {"shards": sum(path.is_file() for path in (folder / "c").rglob("*"))}}


def write_table(path: Path, table: npt.NDArray[np.int32]) -> None:
    """Write spans, int32 (spans, 5), synced."""
    with path.open("wb") as handle:
        np.save(handle, table, allow_pickle=False)
        handle.flush()
        os.fsync(handle.fileno())


def write_spans(
    folder: Path, table: npt.NDArray[np.int32], voxels: npt.NDArray[np.int64], axis: int, mm: Triple
) -> None:
    """Write a case's lesions: ``spans.npy``, int32 (spans, 5): lesion, origin x y z, length; and ``lesions.csv``.

    Args:
        folder: The case's.
        table: The spans, ascending by lesion.
        voxels: Voxels of each lesion.
        axis: The axis that spans lie along.
        mm: Spacing.
    """
    write_table(folder / "spans.npy", table)
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    names = [f"{name}_{letter}" for name in ("bbox_start", "bbox_stop", "centroid_voxel") for letter in "xyz"]
    writer.writerow([*_TABLE, *names])
    starts = np.searchsorted(table[:, 0], np.arange(len(voxels)))
    stops = np.append(starts[1:], len(table)) if len(voxels) else starts
    for lesion, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        origin, length = table[start:stop, 1:4].astype(np.int64), table[start:stop, 4].astype(np.int64)
        last = origin.copy()
        last[:, axis] += length - 1
        centroid = ((origin + last) / 2 * length[:, None]).sum(axis=0) / length.sum()
        volume = int(voxels[lesion]) * math.prod(mm)
        diameter = (6 * volume / math.pi) ** (1 / 3)
        box = [*origin.min(axis=0).tolist(), *(last.max(axis=0) + 1).tolist(), *centroid.round(3).tolist()]
        writer.writerow([lesion, int(voxels[lesion]), round(volume, 6), round(diameter, 6), *box])
    with (folder / "lesions.csv").open("w", encoding="utf-8") as text:
        text.write(rows.getvalue())
        text.flush()
        os.fsync(text.fileno())
