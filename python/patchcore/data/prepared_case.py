"""A case in the store: its geometry, its lesions, and windows of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.errors import CorruptFileError, DataError
from patchcore.store import ChunkCache, StoredArray, read_windows
from patchcore.types import IntTriple, Triple
from patchcore.volumetry import LesionSpans

__all__ = ["PreparedCase"]


@dataclass(frozen=True)
class PreparedCase:
    """A case on the training grid.

    Attributes:
        case_id: The case.
        patient: Its patient.
        path: Its folder in the store.
        shape: Voxels, canonical axes.
        spacing: mm per voxel, canonical axes.
        class_voxels: Voxels of each class, background left out.
        lesion_voxels: Voxels of each lesion, in the order of the spans.
        span_axis: The axis that the spans lie along.
        kept_lesions: Lesions that would have vanished on the training grid and were kept as one voxel.
        crop_start: First voxel kept of the whole training grid.
        cropped: Whether only a part of that grid was kept.
        cut_lesions: Lesions that do not lie wholly within that part.
    """

    case_id: str
    patient: str
    path: Path
    shape: IntTriple
    spacing: Triple
    class_voxels: tuple[int, ...]
    lesion_voxels: tuple[int, ...]
    span_axis: int
    kept_lesions: int = 0
    crop_start: IntTriple = (0, 0, 0)
    cropped: bool = False
    cut_lesions: int = 0

    @property
    def voxel_mm3(self) -> float:
        """Volume of a training voxel."""
        return self.spacing[0] * self.spacing[1] * self.spacing[2]

    @property
    def image_bytes(self) -> int:
        """Memory of image and label together."""
        return 3 * self.shape[0] * self.shape[1] * self.shape[2]

    @cached_property
    def image_array(self) -> StoredArray:
        """The CT, open for windows: int16 HU of shape `shape`."""
        return self._open("image", np.int16)

    @cached_property
    def label_array(self) -> StoredArray:
        """The class indices, open for windows: uint8 of shape `shape`."""
        return self._open("label", np.uint8)

    def read_window(
        self,
        corner: npt.NDArray[np.int64],
        window_size: IntTriple,
        *,
        hu_range: tuple[float, float],
        image_out: npt.NDArray[np.float32],
        label_out: npt.NDArray[np.uint8],
        cache: ChunkCache | None = None,
    ) -> None:
        """Read one window, on the calling thread.

        Args:
            corner: Its first voxel on the training grid, (1, 3); may lie outside.
            window_size: Voxels per axis.
            hu_range: Clipped to and scaled to [0, 1]; what lies outside is 0, and label 0.
            image_out: float32 (1, x, y, z), C order, to be filled.
            label_out: uint8 of the same shape.
            cache: Where decoded chunks are looked for first, and kept.

        Raises:
            CorruptFileError: A chunk is damaged; the case is named.
        """
        with self._case_named():
            read_windows(
                [self.image_array],
                corner,
                window_size,
                hu_range=hu_range,
                labels=[self.label_array],
                out=image_out,
                label_out=label_out,
                cache=cache,
                threads=1,
            )

    def image(self) -> npt.NDArray[np.int16]:
        """Read the CT: int16 HU of shape `shape`."""
        with self._case_named():
            return self.image_array.read()

    def label(self) -> npt.NDArray[np.uint8]:
        """Read the class indices: uint8 of shape `shape`."""
        with self._case_named():
            return self.label_array.read()

    def spans(self) -> LesionSpans:
        """Read the lesions as spans on the training grid."""
        path = self.path / "spans.npy"
        try:
            table: npt.NDArray[np.int32] = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, FileNotFoundError) as error:
            raise self._damaged(path, error) from None
        if table.dtype != np.int32 or table.ndim != 2 or table.shape[1] != 5:
            raise self._damaged(path, f"{table.dtype} {table.shape}")
        return LesionSpans(
            lesion=table[:, 0],
            origin=table[:, 1:4],
            length=table[:, 4],
            axis=self.span_axis,
            voxel_count=np.asarray(self.lesion_voxels, dtype=np.int64),
        )

    def _open(self, name: str, dtype: Any) -> StoredArray:
        try:
            array = StoredArray(self.path / name)
        except (DataError, FileNotFoundError) as error:
            raise self._damaged(self.path / name, error) from None
        if array.dtype != dtype or array.shape != self.shape:
            raise self._damaged(self.path / name, f"{array.dtype} {array.shape}")
        return array

    @contextmanager
    def _case_named(self) -> Iterator[None]:
        try:
            yield
        except CorruptFileError as error:
            if error.case_id is not None:
                raise
            raise self._damaged(self.path, error.message) from None

    def _damaged(self, path: Path, found: object) -> CorruptFileError:
        return CorruptFileError(
            f"damaged store ({found})",
            case_id=self.case_id,
            path=path,
            remedy=f"delete {self.path}; it is made anew when it is missing",
        )
