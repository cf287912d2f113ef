"""Writes one case of a store: resamples image and label map from their files to the training grid, streaming."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from patchcore import _core
from patchcore.files import write_json_atomic
from patchcore.lesions.measure import LesionSpans
from patchcore.resampling.grid import Grid
from patchcore.resampling.image import cubic_axes
from patchcore.store.layout import array_metadata, describe_shards, shard_shape
from patchcore.types import IntTriple, Triple

__all__ = ["AIR_HU", "Placed", "Source", "WrittenLabels"]

AIR_HU = -1024
"""HU of air: replaces NaN and everything outside a scan."""

Source: TypeAlias = Path | npt.NDArray[Any]
"""A NIfTI file, or an array in stored axis order."""


@dataclass(frozen=True)
class _Arguments:
    """A placement as the Rust core expects it. All fields except `axes` are in canonical axis order."""

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
    """The result of writing a label map.

    Attributes:
        spans: Spans of the lesions, on the kept part of the training grid.
        other_classes: Spans of all classes except the lesion class, int32 (spans, 5): class index, origin, length.
        class_voxels: Number of voxels of each class.
        is_lesion: bool (lesions,): whether a component is a lesion of the source, and not only made of specks.
        kept_lesions: Number of lesions that resampling would have removed and that were kept as one voxel.
    """

    spans: LesionSpans
    other_classes: npt.NDArray[np.int32]
    class_voxels: tuple[int, ...]
    is_lesion: npt.NDArray[np.bool_]
    kept_lesions: int


@dataclass(frozen=True)
class Placed:
    """A scan and the part of its training grid that is kept.

    Attributes:
        grid: The training grid.
        start: First voxel kept.
        stop: Voxel after the last voxel kept.
        kernel: ``cubic`` or ``linear``. An axis more than three times as thick as the others is always linear.
        antialias: Whether the image is blurred first along axes that become coarser.
    """

    grid: Grid
    start: IntTriple
    stop: IntTriple
    kernel: Literal["cubic", "linear"] = "cubic"
    antialias: bool = True

    @property
    def shape(self) -> IntTriple:
        """Number of voxels kept along each axis."""
        (a, b, c), (x, y, z) = self.start, self.stop
        return (x - a, y - b, z - c)

    def needed_bytes(self, source: Source, classes: int, threads: int) -> int:
        """Return the maximum memory [bytes] needed to write image and labels.

        Raises:
            DataError, OSError: The header of the source cannot be read.
        """
        shards = (self._shard(source, 2), self._shard(source, 1))
        needed: int = _core.prepare_case_bytes(
            source, self._arguments(), shards=shards, classes=classes, threads=threads
        )
        return needed

    def write_image(self, source: Source, folder: Path, *, threads: int | None = None) -> int:
        """Write the CT as int16 HU into a new folder. Returns the number of bytes written.

        Raises:
            DataError: The source is damaged.
            OSError: The source cannot be read, or the store cannot be written.
        """
        folder.mkdir()
        shard = self._shard(source, 2)
        written: int = _core.prepare_case_image(
            source, self._arguments(), folder, shard=shard, nan=AIR_HU, threads=threads
        )
        metadata = array_metadata(
            self.shape, shard, "int16", fill=AIR_HU, attributes=describe_shards(folder, self.shape, shard)
        )
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
        voxel_mm3: float,
        min_volume_mm3: float = 0.0,
        threads: int | None = None,
    ) -> WrittenLabels:
        """Write the label map as uint8 class indices into a new folder, and find the lesions.

        Args:
            source: The label map, on its own grid.
            folder: The new folder.
            classes: Stored labels of the classes; the first has class index 1.
            lesion_label: The label with components that are lesions.
            connectivity: 6, 18 or 26.
            voxel_mm3: Volume of a voxel of the source [mm³].
            min_volume_mm3: Smaller components of the source are specks, not lesions [mm³].
            threads: Number of threads [default: all cores].

        Raises:
            DataError: The source is damaged, or there are more than 255 classes.
            OSError: The source cannot be read, or the store cannot be written.
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
            voxel_mm3=voxel_mm3,
            min_volume_mm3=min_volume_mm3,
            threads=threads,
        )
        metadata = array_metadata(self.shape, shard, "uint8", attributes=describe_shards(folder, self.shape, shard))
        write_json_atomic(folder / "zarr.json", metadata)
        class_voxels, kept = found.pop("class_voxels"), found.pop("kept_lesions")
        other = np.column_stack(found.pop("class_spans")).astype(np.int32)
        is_lesion = found.pop("is_lesion")
        return WrittenLabels(LesionSpans(**found), other, tuple(class_voxels), is_lesion, kept)

    def _arguments(self) -> _Arguments:
        grid = self.grid
        return _Arguments(
            axes=grid.axes,
            flipped=grid.flipped,
            ratio=grid.ratio,
            shape=grid.shape,
            start=self.start,
            stop=self.stop,
            cubic=cubic_axes(self.kernel, grid.canonical_spacing),
            antialias=self.antialias,
        )

    def _shard(self, source: Source, element_bytes: int) -> IntTriple:
        """Return the shape of shards, thin along the axis along which the source is read."""
        slowest = 2
        if not isinstance(source, Path):
            long = [axis for axis in range(3) if source.shape[axis] > 1] or [0, 1, 2]
            slowest = max(long, key=lambda axis: abs(source.strides[axis]))
        return shard_shape(self.shape, element_bytes, thin_axis=self.grid.axes.index(slowest))
